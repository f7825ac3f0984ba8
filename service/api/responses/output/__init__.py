"""What a response says: its items made from events, and the events of its stream."""
