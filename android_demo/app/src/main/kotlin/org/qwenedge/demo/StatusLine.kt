package org.qwenedge.demo

import android.os.Handler
import android.os.Looper
import android.widget.TextView
import java.util.concurrent.Executors
import java.util.concurrent.ScheduledFuture
import java.util.concurrent.TimeUnit
import org.qwenedge.engine.ChatView
import org.qwenedge.engine.Phase
import org.qwenedge.probe.Health

/** What the model does and how fast, and how the device is; that is looked at now and then, off the screen's thread. */
class StatusLine(private val text: TextView, private val services: AppServices) {
    private val context = text.context
    private val main = Handler(Looper.getMainLooper())
    private val looker = Executors.newSingleThreadScheduledExecutor()
    private var looking: ScheduledFuture<*>? = null
    private var view = ChatView()
    private var health: Health? = null

    fun start() {
        looking = looker.scheduleWithFixedDelay({ look() }, 0, INTERVAL_S, TimeUnit.SECONDS)
    }

    fun stop() {
        looking?.cancel(false)
    }

    fun show(changed: ChatView) {
        view = changed
        draw()
    }

    private fun look() {
        val found = services.health.look()
        main.post {
            health = found
            draw()
        }
    }

    private fun draw() {
        text.text = listOfNotNull(phase(), figures(), health?.let(::device)).joinToString("\n")
    }

    private fun phase(): String {
        val model = view.model.orEmpty()
        return when (view.phase) {
            Phase.NO_MODEL -> context.getString(R.string.no_model)
            Phase.LOADING -> view.progress?.let { context.getString(R.string.loading_share, model, (it * 100).toInt()) }
                ?: context.getString(R.string.loading, model)
            Phase.READY -> context.getString(R.string.ready, model)
            Phase.ASLEEP -> context.getString(R.string.asleep, model)
            Phase.ANSWERING -> context.getString(R.string.answering, model)
        }
    }

    private fun figures(): String? {
        val figures = view.figures
        val tokensPerSecond = figures.tokensPerSecond ?: return null
        val prompt = figures.promptTokensPerSecond ?: 0.0
        return context.getString(R.string.figures, tokensPerSecond, prompt, figures.ttftMs
            ?: 0.0, figures.position, figures.contextLength)
    }

    private fun device(health: Health): String =
        context.getString(R.string.health, health.memoryMb, health.availableMb, health.temperatureC
            ?: Double.NaN, health.thermal)

    private companion object {
        const val INTERVAL_S = 2L
    }
}
