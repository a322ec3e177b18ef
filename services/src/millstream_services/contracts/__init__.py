"""What services publish to each other: events, calls and the vocabularies both sides share. Nothing else is shared."""
