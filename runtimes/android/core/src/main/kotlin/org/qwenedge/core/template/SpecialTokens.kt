package org.qwenedge.core.template

import org.qwenedge.core.artifact.Artifact
import org.qwenedge.core.artifact.sideFile

private val NAMES = listOf("bos_token", "eos_token", "pad_token", "unk_token")

/** The special tokens by the names that templates use, from `tokenizer_config.json` where the artifact has one. */
fun readSpecialTokens(artifact: Artifact): Map<String, String> {
    val config = artifact.sideFile("tokenizer_config.json")
    return NAMES.mapNotNull { name -> text(config[name])?.let { name to it } }.toMap()
}

/** A token is written as its text, or as an object that holds it. */
private fun text(token: Any?): String? = token as? String ?: (token as? Map<*, *>)?.get("content") as? String
