"""The dashboard and its Markdown sibling: what the records say, for people.

`content` turns records into columns, `page` puts them into one HTML file that asks nothing of any network, `markdown`
writes the short form for a pull request. Virtual machines and emulators never come near a performance figure.
"""
