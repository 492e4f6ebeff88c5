package org.qwenedge.engine

import java.util.concurrent.Executor
import org.qwenedge.core.EngineException
import org.qwenedge.core.ImageException
import org.qwenedge.core.MemoryException
import org.qwenedge.core.QwenEdgeException
import org.qwenedge.core.artifact.BundleStore
import org.qwenedge.core.artifact.Installed
import org.qwenedge.core.artifact.Progress
import org.qwenedge.core.events.Live
import org.qwenedge.core.events.StopReason
import org.qwenedge.core.vision.patchImage

/** Where a chat finds its models and keeps itself; engines are made when the first model is opened. */
class ChatHome(
    val store: BundleStore,
    val engines: () -> Engines,
    val selfCheck: SelfCheck,
    val guard: CrashGuard,
    val transcript: TranscriptFile,
)

/**
 * One chat with one model, for a screen that comes and goes.
 *
 * It belongs to the process, not to a screen, so it survives rotation; it writes itself down after each answer, so it
 * survives the death of the process. All work runs on [worker], one thing after the other; [changed] hears on that thread
 * that [view] is another. Nothing that goes wrong ends a chat: it becomes a notice, and another message may be sent.
 */
class ChatSession(
    private val home: ChatHome,
    private val worker: Executor,
    private val settings: ChatSettings,
    private val changed: () -> Unit,
) {
    private val live = Live()
    private var chosen: Installed? = null
    private var model: LoadedModel? = null
    private var conversation: Conversation? = null

    @Volatile private var stopWanted = false

    /** What the screen shows now. */
    @Volatile var view = ChatView()
        private set

    /** Take up the chat of an earlier process, or say what killed it. */
    fun resume() = work {
        val kept = home.transcript.read()
        val died = home.guard.lastWords()
        chosen = home.store.list().find { it.name == kept?.model }
        val messages = kept?.messages.orEmpty()
        val phase = if (chosen?.artifact == null) Phase.NO_MODEL else Phase.ASLEEP
        update { copy(phase = phase, model = chosen?.name, messages = messages, notice = died ?: chosen?.problem) }
    }

    /** Choose a model and begin a new chat with it. */
    fun choose(installed: Installed) = work {
        close()
        chosen = installed
        update { ChatView(model = installed.name) }
        load()
        save()
    }

    /** Send a message, with pictures where the model sees. */
    fun say(text: String, pictures: List<Picture> = emptyList()) = answer { given, onPiece ->
        say(Message.user(text, pictures.map(::seen)), given, { stopWanted }, onPiece)
    }

    fun regenerate() = answer { given, onPiece -> regenerate(given, { stopWanted }, onPiece) }

    fun editLast(text: String) = answer { given, onPiece ->
        editLast(Message.user(text), given, { stopWanted }, onPiece)
    }

    /** End the answer in progress; what is written stays. */
    fun stop() {
        stopWanted = true
    }

    /** Forget what was said. */
    fun newChat() = work {
        conversation?.reset()
        update { copy(messages = spoken(), answer = null, figures = Figures(), notice = null) }
        save()
    }

    /** Give the model's memory back; the next message opens it again and reads the chat anew. */
    fun sleep() = work {
        if (model != null) {
            close()
            update { copy(phase = Phase.ASLEEP, figures = Figures()) }
        }
    }

    private fun answer(speak: Conversation.(Settings, (Piece) -> Unit) -> StopReason) {
        stopWanted = false
        work {
            if (model == null) load()
            val opened = model ?: throw EngineException("no model is open; choose one")
            val talk = conversation ?: throw EngineException("no chat is open; choose a model")
            val written = StringBuilder()
            update { copy(phase = Phase.ANSWERING, answer = "", notice = null) }
            val reason = home.guard.watch("answering with ${view.model}") {
                talk.speak(settings.forModel(opened)) { piece ->
                    written.append(piece.text)
                    update { copy(messages = spoken(), answer = written.toString(), figures = figures(live, opened.engine)) }
                }
            }
            val full = "the context is full; start a new chat".takeIf { reason == StopReason.CONTEXT }
            update { copy(notice = full) }
        }
    }

    /** Check and open the chosen model, with what was said so far. */
    private fun load() {
        val installed = chosen ?: throw EngineException("no model was chosen; choose one")
        val artifact = installed.artifact ?: throw EngineException(installed.problem ?: "${installed.name} cannot be used")
        update { copy(phase = Phase.LOADING, progress = null, notice = null) }
        home.store.verify(artifact, Progress { done, total -> update { copy(progress = done.toDouble() / total) } })
        val opened = home.guard.watch("opening ${installed.name}") {
            loadModel(artifact, home.engines(), settings.templateOptions, home.selfCheck)
        }
        val system = settings.system.takeIf { view.messages.isEmpty() }
        val talk = Conversation(opened.engine, opened.voice, system, emit = live)
        if (view.messages.isNotEmpty()) talk.continueFrom(view.messages)
        model = opened
        conversation = talk
        update { copy(phase = Phase.READY, progress = null, messages = spoken(), canSee = opened.engine is SeeingEngine) }
    }

    private fun seen(picture: Picture): SeenImage {
        val engine = model?.engine as? SeeingEngine ?: throw ImageException("this model cannot see; choose one that can")
        return engine.see(patchImage(picture.pixels(), engine.vision.images))
    }

    private fun close() {
        conversation = null
        model?.close()
        model = null
    }

    /** Run on the worker; whatever goes wrong becomes a notice, and the chat is as usable as it can be. */
    private fun work(action: () -> Unit) = worker.execute {
        try {
            action()
        } catch (error: QwenEdgeException) {
            recover(error)
        } catch (error: OutOfMemoryError) {
            recover(MemoryException("the device ran out of memory; close other apps or choose a smaller model", error))
        } finally {
            settle()
        }
    }

    private fun recover(error: QwenEdgeException) {
        if (error is MemoryException) close()
        update { copy(notice = error.message) }
    }

    /** Leave LOADING and ANSWERING behind, whatever happened. */
    private fun settle() {
        val busy = view.phase == Phase.LOADING || view.phase == Phase.ANSWERING
        if (!busy) return
        val rest = if (model != null) Phase.READY else if (chosen?.artifact != null) Phase.ASLEEP else Phase.NO_MODEL
        update { copy(phase = rest, progress = null, answer = null, messages = spoken()) }
        save()
    }

    private fun spoken(): List<Message> = conversation?.messages ?: view.messages

    private fun save() {
        chosen?.let { home.transcript.save(Transcript(it.name, view.messages)) }
    }

    private fun update(change: ChatView.() -> ChatView) {
        view = view.change()
        changed()
    }
}
