package org.qwenedge.engine

import org.qwenedge.core.sampling.Sampling

/** How a chat answers. */
data class ChatSettings(
    val system: String? = null,
    /** Null: as the bundle's generation_config.json has it. */
    val sampling: Sampling? = null,
    val maxTokens: Int? = null,
    /** Whether the model reasons before it answers; null: as its template has it. */
    val thinking: Boolean? = null,
) {
    /** The switches of the chat template. */
    val templateOptions: Map<String, Any?> get() = if (thinking == null) emptyMap() else mapOf("enable_thinking" to thinking)

    fun forModel(model: LoadedModel) = Settings(model.artifact.manifest.eosTokenIds, sampling
        ?: model.sampling, maxTokens)
}
