package org.qwenedge.demo

import android.app.Activity
import android.os.Bundle
import android.util.Log
import android.view.WindowManager
import android.widget.TextView
import java.io.File
import org.qwenedge.core.QwenEdgeException
import org.qwenedge.core.artifact.Artifact
import org.qwenedge.engine.BenchmarkRunner
import org.qwenedge.engine.readCases
import org.qwenedge.probe.AwakeLock

/**
 * Runs the device lab's cases without anybody touching the screen:
 *
 *     adb shell am start -W -n org.qwenedge.demo/.BenchmarkActivity --es artifact NAME --es cases FILE --es out FILE
 *
 * All three are below the app's folder on shared storage, artifacts in `bundles`. Each line of the event stream goes to the
 * log under `qwen-edge` as well; the stream counts when its last line is there.
 */
class BenchmarkActivity : Activity() {
    private val services get() = (application as DemoApplication).services
    private lateinit var screen: TextView

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        screen = TextView(this).also(::setContentView)
        // a process that was killed and comes back does not measure a second time
        if (savedInstanceState == null) services.worker.execute(::runAll)
    }

    private fun runAll() {
        val message = try {
            val out = place("out")
            AwakeLock(this, LONGEST_MS).whileAwake { measure(place("artifact", "bundles"), place("cases"), out) }
            getString(R.string.benchmark_done, out)
        } catch (error: QwenEdgeException) {
            getString(R.string.benchmark_failed, error.message).also { Log.e(TAG, it) }
        }
        runOnUiThread {
            screen.text = message
            finish()
        }
    }

    private fun measure(artifact: File, cases: File, out: File) {
        var lines = 0
        val opened = Artifact.open(artifact).also(services.store::verify)
        val runner = BenchmarkRunner(opened, services.engines, services.counters)
        out.outputStream().use { stream ->
            runner.run(readCases(cases), stream) { line ->
                Log.i(TAG, line)
                val count = ++lines
                runOnUiThread { screen.text = getString(R.string.benchmark_running, count) }
            }
        }
    }

    /** A file that the intent names, which has to lie in the app's own folder. */
    private fun place(extra: String, folder: String? = null): File {
        val name = intent.getStringExtra(extra) ?: throw QwenEdgeException("no --es $extra NAME was given")
        val root = getExternalFilesDir(folder)
            ?: throw QwenEdgeException("shared storage is not there; unlock the phone")
        val place = root.resolve(name).canonicalFile
        if (!place.startsWith(root.canonicalFile)) throw QwenEdgeException("$name leads outside $root")
        return place
    }

    private companion object {
        const val TAG = "qwen-edge"
        const val LONGEST_MS = 3L * 60 * 60 * 1000
    }
}
