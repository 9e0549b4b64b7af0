"""What the child does with answers that are ready; everything else of it is tested through the process."""

import socket
import threading
from pathlib import Path

import numpy as np

from appliance.engine.child import Child
from appliance.engine.messages import Configure, parse_from_child
from appliance.engine.protocol import EmbedResult, Started
from appliance.engine.settings import EngineSettings
from appliance.engine.wire import FRAME_BYTES_MAX, receive_frame

DIM = 384


def test_answers_that_together_exceed_a_frame_arrive_all_the_same(tmp_path: Path) -> None:
    """One call may fill half a frame; many may be ready in the same step."""
    texts = FRAME_BYTES_MAX // 2 // (4 * DIM)
    large = EmbedResult(np.zeros((texts, DIM), np.float32), (1,) * texts)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Child(ours, Configure(str(tmp_path), EngineSettings(), ()))
        sender = threading.Thread(target=child._deliver, args=([(1, large), (2, Started(5)), (3, large), (4, large)],))
        sender.start()
        messages = [message for _ in range(4) for message in parse_from_child(receive_frame(theirs))]
        sender.join()
    assert sorted(message.call for message in messages if hasattr(message, "call")) == [1, 2, 3, 4]
