package org.qwenedge.engine

/** One message of a conversation, its images before its text. */
data class Message(val role: String, val content: String, val images: List<SeenImage> = emptyList()) {
    /** The message as a chat template reads it. */
    fun forTemplate(): Map<String, Any?> {
        if (images.isEmpty()) return mapOf("role" to role, "content" to content)
        val items = images.map { mapOf("type" to "image") } + mapOf("type" to "text", "text" to content)
        return mapOf("role" to role, "content" to items)
    }

    companion object {
        fun system(content: String) = Message("system", content)

        fun user(content: String, images: List<SeenImage> = emptyList()) = Message("user", content, images)

        fun assistant(content: String) = Message("assistant", content)
    }
}
