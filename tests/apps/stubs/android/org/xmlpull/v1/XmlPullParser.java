package org.xmlpull.v1;

/** Mentioned by Android; used by nobody here. */
public interface XmlPullParser { }
