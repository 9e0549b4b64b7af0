"""Fine-tuning. Needs the workbench extra (torch); nothing that a box runs imports this room."""
