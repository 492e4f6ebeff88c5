package org.qwenedge.engine

import java.io.File
import java.util.concurrent.Executor
import kotlin.io.path.createTempDirectory
import org.qwenedge.core.artifact.BundleStore
import org.qwenedge.core.artifact.Installed

/** An app's folders and its process, which may die and come back. Work runs at once, on the thread that asks for it. */
class Phone(private val factory: (Phone) -> EngineFactory) {
    private val root: File = createTempDirectory("phone").toFile().apply {
        Runtime.getRuntime().addShutdownHook(Thread { deleteRecursively() })
    }
    val pushed: File = root.resolve("pushed").apply { mkdirs() }
    val imported: File = root.resolve("imported")
    val store = BundleStore(imported, listOf(pushed), notes = root.resolve("notes"))
    val guardNote: File = root.resolve("running")
    val transcript: File = root.resolve("chat.json")
    val views = ArrayList<ChatView>()

    /** Called on every change of the view: to press a button while the model works. */
    var onChange: (ChatView) -> Unit = {}
    /** The version of the operating system. */
    var system = "14"

    /** The version of the app. */
    var app = "1"
    val verdicts: File = root.resolve("verdicts")
    lateinit var session: ChatSession
        private set

    val view: ChatView get() = session.view
    val answers: List<String> get() = view.messages.filter { it.role == "assistant" }.map { it.content }

    init {
        start()
    }

    /** A new process: nothing is left but the files. */
    fun start(systemSays: String? = null) {
        views.clear()
        val home = ChatHome(
            store = store,
            engines = { Engines(listOf(factory(this))) },
            selfCheck = SelfCheck(verdicts, system, app),
            guard = CrashGuard(guardNote) { systemSays },
            transcript = TranscriptFile(transcript),
        )
        session = ChatSession(home, Executor { it.run() }, ChatSettings(thinking = false)) {
            views += session.view
            onChange(session.view)
        }
        session.resume()
    }

    fun push(name: String = "model", prepare: TestArtifact.() -> Unit = {}): Installed {
        TestArtifact(pushed.resolve(name)).prepare()
        return store.list().single { it.name == name }
    }
}
