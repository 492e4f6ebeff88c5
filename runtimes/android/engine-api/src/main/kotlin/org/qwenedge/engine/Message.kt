package org.qwenedge.engine

/** One message of a conversation, as chat templates know it. */
data class Message(val role: String, val content: String) {
    /** The message as a chat template reads it. */
    fun forTemplate(): Map<String, Any?> = mapOf("role" to role, "content" to content)

    companion object {
        fun system(content: String) = Message("system", content)

        fun user(content: String) = Message("user", content)

        fun assistant(content: String) = Message("assistant", content)
    }
}
