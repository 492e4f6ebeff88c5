package org.qwenedge.demo

import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.ContentValues
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import org.qwenedge.engine.Picture

/** Pictures for the next message, from the gallery or from the camera's own app: neither needs a permission. */
class PicturePicker(private val activity: Activity, private val tell: (String) -> Unit) {
    private val chosen = ArrayList<Uri>()
    private var taking: Uri? = null

    val count: Int get() = chosen.size

    fun fromGallery() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
        activity.startActivityForResult(intent, GALLERY)
    }

    fun fromCamera() {
        val place = activity.contentResolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, ContentValues()) ?: return
        try {
            taking = place
            val intent = Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, place)
            activity.startActivityForResult(intent, CAMERA)
        } catch (_: ActivityNotFoundException) {
            forget(place)
            tell(activity.getString(R.string.no_camera))
        }
    }

    /** What an activity that was started here has answered; false where it was none of them. */
    fun take(requestCode: Int, resultCode: Int, data: Intent?): Boolean {
        when (requestCode) {
            GALLERY -> data?.data?.let(chosen::add)
            CAMERA -> taking?.let { if (resultCode == Activity.RESULT_OK) chosen += it else forget(it) }
            else -> return false
        }
        return true
    }

    /** The chosen pictures, which are none any more. */
    fun takeAll(): List<Picture> = chosen.map { ContentPicture(activity.contentResolver, it) }.also { chosen.clear() }

    fun save(state: Bundle) {
        state.putStringArray(CHOSEN, chosen.map(Uri::toString).toTypedArray())
        state.putString(TAKING, taking?.toString())
    }

    fun restore(state: Bundle) {
        state.getStringArray(CHOSEN)?.mapTo(chosen, Uri::parse)
        taking = state.getString(TAKING)?.let(Uri::parse)
    }

    private fun forget(place: Uri) {
        activity.contentResolver.delete(place, null, null)
        taking = null
    }

    private companion object {
        const val GALLERY = 2
        const val CAMERA = 3
        const val CHOSEN = "chosen"
        const val TAKING = "taking"
    }
}
