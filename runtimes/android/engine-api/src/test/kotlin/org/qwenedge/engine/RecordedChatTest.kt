package org.qwenedge.engine

import kotlin.test.Test
import kotlin.test.assertEquals
import org.qwenedge.core.Golden
import org.qwenedge.core.ints
import org.qwenedge.core.map
import org.qwenedge.core.objects
import org.qwenedge.core.template.ChatTemplate
import org.qwenedge.core.text
import org.qwenedge.core.texts
import org.qwenedge.core.tokenizer.readTokenizer

/** The app's loop on what a real runtime answered: the same calls, the same tokens and the same text as in Python. */
class RecordedChatTest {
    private val recording = Golden.read("recording.json")

    @Test
    fun `the recorded chat comes out word for word`() {
        val engine = ReplayEngine(recording)
        val voice = Voice(
            tokenizer = readTokenizer(Golden.repository.resolve(recording.text("tokenizer_file"))),
            template = ChatTemplate.read(Golden.repository.resolve(recording.text("template_file"))),
            options = recording.map("options").entries.associate { (key, value) -> key as String to value },
        )
        val conversation = Conversation(engine, voice, recording.text("system"))
        for (step in recording.objects("script")) play(conversation, step)
        assertEquals(0, engine.missing)
    }

    private fun play(conversation: Conversation, step: Map<*, *>) {
        val pieces = ArrayList<Piece>()
        val settings = settingsOf(step["settings"] as Map<*, *>?, recording.ints("eos_token_ids"))
        when (step.text("do")) {
            "say" -> conversation.say(Message.user(step.text("text")), settings, onPiece = pieces::add)
            "edit_last" -> conversation.editLast(Message.user(step.text("text")), settings, onPiece = pieces::add)
            "regenerate" -> conversation.regenerate(settings, onPiece = pieces::add)
            else -> return conversation.reset()
        }
        assertEquals(step.ints("tokens"), pieces.map { it.token })
        assertEquals(step.texts("pieces"), pieces.map { it.text })
        assertEquals(step.text("stop"), pieces.last().stop?.id)
    }
}
