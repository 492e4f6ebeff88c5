package org.qwenedge.demo

import android.content.Context
import android.os.Build
import android.os.Handler
import android.os.Looper
import android.system.Os
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicBoolean
import org.qwenedge.core.artifact.BundleStore
import org.qwenedge.engine.ChatHome
import org.qwenedge.engine.ChatSession
import org.qwenedge.engine.ChatSettings
import org.qwenedge.engine.ChatView
import org.qwenedge.engine.CrashGuard
import org.qwenedge.engine.Engines
import org.qwenedge.engine.SelfCheck
import org.qwenedge.engine.TranscriptFile
import org.qwenedge.engine.executorch.ExecuTorchFactory
import org.qwenedge.engine.onnxruntime.OnnxRuntimeFactory
import org.qwenedge.probe.DeviceCounters
import org.qwenedge.probe.DeviceHealth
import org.qwenedge.probe.SharedStateMemory

/** Everything that screens share, made once a process. */
class AppServices(context: Context) {
    private val main = Handler(Looper.getMainLooper())
    private val refreshWaits = AtomicBoolean()

    /** The one thread that touches models. */
    val worker: ExecutorService = Executors.newSingleThreadExecutor { Thread(it, "model") }

    /** For files: a list of models or an import waits for no answer. */
    val files: ExecutorService = Executors.newSingleThreadExecutor { Thread(it, "files") }
    val health = DeviceHealth(context)
    val counters = DeviceCounters(context)
    val store = BundleStore(
        imported = context.filesDir.resolve("bundles"),
        pushed = listOfNotNull(context.getExternalFilesDir("bundles")),
        notes = context.filesDir.resolve("verified"),
    )

    /** Native libraries are loaded on first use, once telemetry is off: ONNX Runtime reads the variable as it loads. */
    val engines: Engines by lazy {
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", true)
        Engines(listOf(OnnxRuntimeFactory(SharedStateMemory()), ExecuTorchFactory(BuildConfig.EXECUTORCH_VERSION)))
    }
    val session = ChatSession(
        home = ChatHome(
            store = store,
            engines = { engines },
            selfCheck = SelfCheck(
                context.filesDir.resolve("answers"),
                system = Build.VERSION.SDK_INT.toString(),
                app = BuildConfig.VERSION_CODE.toString(),
            ),
            guard = CrashGuard(context.filesDir.resolve("running"), health::lastExit),
            transcript = TranscriptFile(context.filesDir.resolve("chat.json")),
        ),
        worker = worker,
        settings = ChatSettings(thinking = false),
        changed = ::refresh,
    )

    /** The screen in front, if there is one; set and called on the main thread. */
    var screen: ((ChatView) -> Unit)? = null

    /** A fast model changes the view more often than a screen can draw: changes that wait are drawn as one. */
    private fun refresh() {
        if (!refreshWaits.compareAndSet(false, true)) return
        main.post {
            refreshWaits.set(false)
            screen?.invoke(session.view)
        }
    }
}
