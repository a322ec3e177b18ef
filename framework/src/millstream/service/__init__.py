"""The declaration API that users see."""
