package org.qwenedge.demo

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import java.io.IOException
import org.qwenedge.core.ImageException
import org.qwenedge.core.vision.Grid
import org.qwenedge.core.vision.Pixels
import org.qwenedge.engine.Picture

/** A picture of the gallery or the camera; Android's decoder turns it upright. */
class ContentPicture(private val resolver: ContentResolver, private val place: Uri) : Picture {
    override fun pixels(): Pixels = try {
        rgb(ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, place)) { decoder, info, _ ->
            if (info.size.width.toLong() * info.size.height > MAX_PIXELS) throw IOException("more than $MAX_PIXELS pixels")
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        })
    } catch (error: IOException) {
        throw ImageException("the picture cannot be read (${error.message}); choose another one")
    } catch (error: SecurityException) {
        throw ImageException("the picture may not be read any more (${error.message}); choose it again")
    }

    private fun rgb(bitmap: Bitmap): Pixels {
        val size = Grid(bitmap.height, bitmap.width)
        val row = IntArray(size.width)
        val bytes = ByteArray(size.cells * CHANNELS)
        var at = 0
        for (y in 0..<size.height) {
            bitmap.getPixels(row, 0, size.width, 0, y, size.width, 1)
            for (colour in row) {
                bytes[at++] = (colour shr 16).toByte()
                bytes[at++] = (colour shr 8).toByte()
                bytes[at++] = colour.toByte()
            }
        }
        bitmap.recycle()
        return Pixels(size, bytes)
    }

    private companion object {
        const val CHANNELS = 3
        const val MAX_PIXELS = 50_000_000L
    }
}
