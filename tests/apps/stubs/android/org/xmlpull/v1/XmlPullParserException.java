package org.xmlpull.v1;

/** Mentioned by Android; used by nobody here. */
public class XmlPullParserException extends Exception { }
