package org.qwenedge.demo

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import java.io.FileNotFoundException
import java.io.InputStream
import org.qwenedge.core.artifact.ArtifactSource

/** The files below a folder that the user chose in the system's picker. */
class FolderSource(private val resolver: ContentResolver, private val tree: Uri) : ArtifactSource {
    override fun open(path: String): InputStream? {
        var document = DocumentsContract.getTreeDocumentId(tree)
        for (name in path.split('/')) document = child(document, name) ?: return null
        return try {
            resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, document))
        } catch (_: FileNotFoundException) {
            null
        }
    }

    private fun child(parent: String, name: String): String? {
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, parent)
        val columns = arrayOf(Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME)
        return resolver.query(children, columns, null, null, null)?.use { cursor ->
            generateSequence { if (cursor.moveToNext()) cursor.getString(0) to cursor.getString(1) else null }
                .find { (_, shown) -> shown == name }?.first
        }
    }
}
