package org.qwenedge.core.tokenizer

import java.util.regex.Pattern
import java.util.regex.PatternSyntaxException
import org.qwenedge.core.TokenizerException

private const val WHITE_SPACE = "\\t-\\r \\x85\\xA0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000"

/**
 * The pattern that cuts a text into words, for the regular expressions of Java and of Android alike.
 *
 * Tokenizers write it for a library in which `\s` is white space of any script and `(?i:` folds letters of any script.
 * Java means ASCII, Android's ICU something in between: both are written out.
 */
internal fun splitPattern(source: String): Pattern {
    val translated = StringBuilder()
    var inClass = false
    var at = 0
    while (at < source.length) {
        val two = source.substring(at, minOf(at + 2, source.length))
        val piece = when {
            source.startsWith("(?i:", at) -> "(?iu:"
            two == "\\s" -> if (inClass) WHITE_SPACE else "[$WHITE_SPACE]"
            two == "\\S" && !inClass -> "[^$WHITE_SPACE]"
            two == "\\S" ->
                throw TokenizerException("the tokenizer's pattern has \\S in a class, which this app cannot read")
            two.startsWith("\\") -> two
            else -> source.substring(at, at + 1)
        }
        if (piece == "[") inClass = true
        if (piece == "]") inClass = false
        translated.append(piece)
        at += if (source.startsWith("(?i:", at)) 4 else if (two.startsWith("\\")) two.length else 1
    }
    return try {
        Pattern.compile(translated.toString())
    } catch (error: PatternSyntaxException) {
        throw TokenizerException("the tokenizer's pattern cannot be read: ${error.description}")
    }
}
