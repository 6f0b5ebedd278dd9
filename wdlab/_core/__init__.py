"""The ground: checks of what a user passes, dtypes, names in messages. Private; imports no room."""
