"""The built-in provider that moves no money: it keeps a book of its own and fails in every way a real one can."""
