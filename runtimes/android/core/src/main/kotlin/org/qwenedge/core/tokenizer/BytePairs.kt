package org.qwenedge.core.tokenizer

import java.util.PriorityQueue

/** The merges of byte-pair encoding: which two neighbours become one token, and which pair goes first. */
internal class BytePairs {
    private class Merge(val rank: Int, val result: Int)

    private val merges = HashMap<Long, Merge>()

    fun add(left: Int, right: Int, result: Int) {
        merges[key(left, right)] = Merge(rank = merges.size, result = result)
    }

    /** Merges neighbours, always the pair of the lowest rank, the leftmost of equals, until none is left. */
    fun merge(symbols: IntArray): List<Int> {
        val tokens = symbols.copyOf()
        val next = IntArray(tokens.size) { if (it + 1 < tokens.size) it + 1 else NONE }
        val previous = IntArray(tokens.size) { it - 1 }
        val queue = PriorityQueue<Pair>()
        for (at in 0..<tokens.lastIndex) offer(queue, tokens, at, at + 1)
        while (true) {
            val pair = queue.poll() ?: break
            val right = next[pair.at]
            val stale = tokens[pair.at] != pair.left || right == NONE || tokens[right] != pair.right
            if (stale) continue
            tokens[pair.at] = pair.merge.result
            tokens[right] = GONE
            next[pair.at] = next[right]
            if (next[right] != NONE) previous[next[right]] = pair.at
            if (previous[pair.at] != NONE) offer(queue, tokens, previous[pair.at], pair.at)
            if (next[pair.at] != NONE) offer(queue, tokens, pair.at, next[pair.at])
        }
        return tokens.filter { it != GONE }
    }

    private fun offer(queue: PriorityQueue<Pair>, tokens: IntArray, left: Int, right: Int) {
        val merge = merges[key(tokens[left], tokens[right])] ?: return
        queue.add(Pair(at = left, left = tokens[left], right = tokens[right], merge = merge))
    }

    /** A pair that could be merged when it was found; its tokens tell whether it still can. */
    private class Pair(val at: Int, val left: Int, val right: Int, val merge: Merge) : Comparable<Pair> {
        override fun compareTo(other: Pair): Int = compareValuesBy(this, other, { it.merge.rank }, { it.at })
    }

    private fun key(left: Int, right: Int): Long = (left.toLong() shl 32) or right.toLong()

    private companion object {
        const val NONE = -1
        const val GONE = -1
    }
}
