"""The stages: each module reads what the stage before wrote, through files only."""
