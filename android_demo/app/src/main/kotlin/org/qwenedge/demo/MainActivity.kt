package org.qwenedge.demo

import android.app.Activity
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.view.Menu
import android.view.MenuItem
import android.view.View
import android.view.WindowInsets
import android.widget.Button
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import org.qwenedge.engine.ChatView
import org.qwenedge.engine.Phase

/** The chat. It only shows what the session says and hands over what is typed, so it may be destroyed at any moment. */
class MainActivity : Activity() {
    private val services get() = (application as DemoApplication).services
    private val session get() = services.session
    private lateinit var picker: ModelPicker
    private lateinit var pictures: PicturePicker
    private lateinit var status: StatusLine
    private lateinit var messages: MessageAdapter
    private lateinit var input: EditText
    private lateinit var send: Button
    private lateinit var notice: TextView

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        keepClearOfSystemBars(findViewById(R.id.root))
        input = findViewById(R.id.input)
        send = findViewById(R.id.send)
        notice = findViewById(R.id.notice)
        status = StatusLine(findViewById(R.id.status), services)
        messages = MessageAdapter(layoutInflater)
        findViewById<ListView>(R.id.messages).adapter = messages
        send.setOnClickListener { sendOrStop() }
        picker = ModelPicker(this, services, ::showNotice)
        pictures = PicturePicker(this, ::showNotice)
        savedInstanceState?.let(pictures::restore)
    }

    override fun onStart() {
        super.onStart()
        services.screen = ::show
        status.start()
        show(session.view)
        showPictures()
    }

    override fun onStop() {
        services.screen = null
        status.stop()
        super.onStop()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        pictures.save(outState)
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menuInflater.inflate(R.menu.main, menu)
        return true
    }

    override fun onPrepareOptionsMenu(menu: Menu): Boolean {
        val idle = session.view.phase in setOf(Phase.READY, Phase.ASLEEP)
        menu.findItem(R.id.regenerate).isEnabled = idle && session.view.messages.any { it.role == "user" }
        menu.findItem(R.id.new_chat).isEnabled = idle
        for (item in listOf(R.id.gallery, R.id.camera)) menu.findItem(item).isVisible = session.view.canSee
        return true
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean {
        when (item.itemId) {
            R.id.models -> picker.open()
            R.id.gallery -> pictures.fromGallery()
            R.id.camera -> pictures.fromCamera()
            R.id.regenerate -> session.regenerate()
            R.id.new_chat -> session.newChat()
            else -> return super.onOptionsItemSelected(item)
        }
        return true
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        if (pictures.take(requestCode, resultCode, data)) return showPictures()
        if (resultCode == RESULT_OK) data?.data?.let(picker::import)
    }

    private fun sendOrStop() {
        val text = input.text.toString().trim()
        when (session.view.phase) {
            Phase.ANSWERING -> session.stop()
            Phase.NO_MODEL -> picker.open()
            Phase.LOADING -> Unit
            Phase.READY, Phase.ASLEEP -> if (text.isNotEmpty()) {
                session.say(text, pictures.takeAll())
                input.text.clear()
                showPictures()
            }
        }
    }

    private fun show(view: ChatView) {
        messages.show(view)
        status.show(view)
        showNotice(view.notice)
        send.setText(if (view.phase == Phase.ANSWERING) R.string.stop else R.string.send)
        send.isEnabled = view.phase != Phase.LOADING
        invalidateOptionsMenu()
    }

    private fun showPictures() {
        input.hint = if (pictures.count == 0) getString(R.string.message_hint) else getString(R.string.pictures_hint, pictures.count)
    }

    private fun showNotice(text: String?) {
        notice.text = text
        notice.visibility = if (text == null) View.GONE else View.VISIBLE
    }

    /** From Android 15 on, windows reach below the system's bars and the keyboard. */
    private fun keepClearOfSystemBars(root: View) {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return
        root.setOnApplyWindowInsetsListener { view, insets ->
            val bars = insets.getInsets(WindowInsets.Type.systemBars() or WindowInsets.Type.ime())
            view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
            WindowInsets.CONSUMED
        }
    }
}
