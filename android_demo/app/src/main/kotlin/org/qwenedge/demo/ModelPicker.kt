package org.qwenedge.demo

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.net.Uri
import org.qwenedge.core.QwenEdgeException
import org.qwenedge.core.artifact.Installed
import org.qwenedge.core.artifact.Progress

/** The models on this device, and the way to more of them. */
class ModelPicker(private val activity: Activity, private val services: AppServices, private val tell: (String?) -> Unit) {
    fun open() {
        services.files.execute {
            val found = services.store.list()
            activity.runOnUiThread { if (!activity.isDestroyed) show(found) }
        }
    }

    /** Copy the artifact or bundle in a folder that the user chose; checked on the way, so nothing half or wrong is there. */
    fun import(folder: Uri) {
        services.files.execute {
            services.store.cleanUp()
            val message = try {
                val done = services.store.importBundle(FolderSource(activity.contentResolver, folder), Progress(::showShare))
                activity.getString(R.string.imported, done.joinToString { it.name })
            } catch (error: QwenEdgeException) {
                error.message
            }
            activity.runOnUiThread { tell(message) }
        }
    }

    private fun show(found: List<Installed>) {
        val names = found.map { entry -> entry.problem?.let { "${entry.name}\n$it" } ?: entry.name }
        val dialog = AlertDialog.Builder(activity).setTitle(R.string.models_title)
        if (found.isEmpty()) dialog.setMessage(R.string.models_none)
        if (found.isNotEmpty()) {
            dialog.setItems(names.toTypedArray()) { _, index -> services.session.choose(found[index]) }
        }
        dialog.setPositiveButton(R.string.models_import) { _, _ -> chooseFolder() }
        dialog.show()
    }

    private fun chooseFolder() {
        activity.startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), IMPORT)
    }

    private fun showShare(done: Long, total: Long) {
        val percent = (done * 100 / maxOf(total, 1)).toInt()
        activity.runOnUiThread { tell(activity.getString(R.string.importing, percent)) }
    }

    private companion object {
        const val IMPORT = 1
    }
}
