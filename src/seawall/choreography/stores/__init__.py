"""The databases that hold the two boxes, each in one file that is reached by the scheme of its URL."""
