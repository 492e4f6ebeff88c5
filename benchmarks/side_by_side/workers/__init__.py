"""Programs that run alone in a fresh process, so that one import or one load is all that its memory shows.

Each prints one JSON object as its last line on stdout. Heavy libraries are imported here and nowhere else.
"""
