-- When the operator said that this box is gone: its late records are billed, but it gets no credit and holds none.
alter table epochs add column retired_ms bigint;

-- The time on the last receipt. A box takes no receipt older than the one it holds, so this never goes back, also when
-- the node's clock does; seen_ms is what that clock said.
alter table epochs add column told_ms bigint not null default 0;
update epochs set told_ms = seen_ms;

-- A final statement was made of the days before this moment: nothing is posted there any more.
alter table customers add column closed_ms bigint not null default 0;

-- Nothing ever read it.
drop table receipts;
