package org.qwenedge.demo

import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.TextView
import org.qwenedge.engine.ChatView
import org.qwenedge.engine.Message

/** The messages of a chat, the answer in progress last. */
class MessageAdapter(private val inflater: LayoutInflater) : BaseAdapter() {
    private var shown: List<Message> = emptyList()

    fun show(view: ChatView) {
        val next = view.messages + listOfNotNull(view.answer?.let(Message::assistant))
        if (next == shown) return
        shown = next
        notifyDataSetChanged()
    }

    override fun getCount(): Int = shown.size

    override fun getItem(position: Int): Message = shown[position]

    override fun getItemId(position: Int): Long = position.toLong()

    override fun getView(position: Int, convertView: View?, parent: ViewGroup): View {
        val view = convertView ?: inflater.inflate(R.layout.message, parent, false)
        view.findViewById<TextView>(R.id.role).text = shown[position].role
        view.findViewById<TextView>(R.id.text).text = shown[position].content
        return view
    }
}
