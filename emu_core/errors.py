"""The errors that are for the user to read."""


class UserError(ValueError):
    """What the user gave cannot be used. The message is for the user: which file or input, what was expected, what was found,
    what to do. Anything else that is raised is a fault of the program, and shows its traceback."""
