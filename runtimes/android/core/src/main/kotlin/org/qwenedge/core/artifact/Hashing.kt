package org.qwenedge.core.artifact

import java.io.InputStream
import java.io.OutputStream
import java.security.DigestInputStream
import java.security.MessageDigest

private const val BUFFER_BYTES = 1 shl 20
private const val HEX = "0123456789abcdef"

internal fun hex(bytes: ByteArray): String = buildString(bytes.size * 2) {
    for (byte in bytes) append(HEX[byte.toInt() shr 4 and 15]).append(HEX[byte.toInt() and 15])
}

internal fun sha256Of(bytes: ByteArray): String = hex(MessageDigest.getInstance("SHA-256").digest(bytes))

/**
 * Reads a stream to its end, but never beyond [limit] bytes, and gives its length and SHA-256.
 *
 * [onBytes] hears of every piece: to show progress, or to end it by throwing.
 */
internal fun digest(source: InputStream, target: OutputStream?, limit: Long, onBytes: (Int) -> Unit): Pair<Long, String> {
    val hash = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(BUFFER_BYTES)
    var length = 0L
    DigestInputStream(source, hash).use { stream ->
        while (length <= limit) {
            val count = stream.read(buffer)
            if (count < 0) break
            target?.write(buffer, 0, count)
            length += count
            onBytes(count)
        }
    }
    return length to hex(hash.digest())
}
