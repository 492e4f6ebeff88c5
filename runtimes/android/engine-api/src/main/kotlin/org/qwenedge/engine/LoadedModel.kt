package org.qwenedge.engine

import java.io.Closeable
import org.qwenedge.core.ChatTemplateException
import org.qwenedge.core.MemoryException
import org.qwenedge.core.TokenizerException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.sampling.Sampling
import org.qwenedge.core.sampling.readSampling
import org.qwenedge.core.template.ChatTemplate
import org.qwenedge.core.template.readSpecialTokens
import org.qwenedge.core.tokenizer.readTokenizer

/** An artifact that is open: its engine, and what a conversation with it takes. */
class LoadedModel(val artifact: Artifact, val engine: Engine, val voice: Voice, val sampling: Sampling) : Closeable {
    override fun close() = engine.close()
}

/**
 * Open an artifact for a chat; small files first, so that a wrong one is found before the weights are read.
 *
 * [selfCheck] asks it the oracle of its bundle the first time.
 */
fun loadModel(
    artifact: Artifact,
    engines: Engines,
    options: Map<String, Any?>,
    selfCheck: SelfCheck? = null,
): LoadedModel {
    val factory = engines.factoryOf(artifact)
    val runtime = "${factory.runtime}-${factory.version}"
    selfCheck?.refuseKnown(artifact, runtime)
    val manifest = artifact.manifest
    val template = artifact.chatTemplateFile
        ?: throw ChatTemplateException("${manifest.model} has no chat template (a base model?)")
    val voice = Voice(
        tokenizer = readTokenizer(artifact.tokenizerFile),
        template = ChatTemplate.read(template, readSpecialTokens(artifact)),
        options = options,
    )
    if (voice.tokenizer.vocabSize > manifest.vocabSize) {
        throw TokenizerException(
            "${artifact.tokenizerFile}: ${voice.tokenizer.vocabSize} tokens, the model knows ${manifest.vocabSize}; " +
                "this tokenizer belongs to another model",
        )
    }
    val sampling = readSampling(artifact)
    try {
        val engine = factory.open(artifact, defaultThreads())
        closingOnFailure(engine) { selfCheck?.ask(artifact, engine, runtime) }
        return LoadedModel(artifact, engine, voice, sampling)
    } catch (error: OutOfMemoryError) {
        throw MemoryException("${manifest.model}: not enough memory to open it; close other apps or choose a smaller model", error)
    }
}

/** Whoever opened an engine and then fails has to give its memory back. */
private fun closingOnFailure(engine: Engine, action: () -> Unit) {
    var isDone = false
    try {
        action()
        isDone = true
    } finally {
        if (!isDone) engine.close()
    }
}
