package org.qwenedge.core

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.qwenedge.core.template.ChatTemplate

class ChatTemplateTest {
    private val golden = Golden.read("templates.json")

    @Test
    fun `the shipped template renders as in Python`() {
        val template = ChatTemplate.read(Golden.repository.resolve(golden.text("template_file")))
        for (case in golden.objects("cases")) check(case, case.text("name")) { template }
    }

    @Test
    fun `the language is that of jinja as far as chat templates use it`() {
        for (case in golden.objects("language")) check(case, case.text("source")) { ChatTemplate(case.text("source")) }
    }

    @Test
    fun `a template that never ends is stopped`() {
        val numbers = "{% set n = range(99999) %}{% for a in n %}"
        val endless = listOf(
            "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}",
            "$numbers{% for b in n if false %}{% endfor %}{% endfor %}",
            "{% for a in range(99999) %}{% set b = range(99999) %}{% for c in b %}{% endfor %}{% endfor %}",
            "{% for a in range(-9000000000000000000, 9000000000000000000) %}{% endfor %}",
        )
        for (source in endless) assertFailsWith<ChatTemplateException>(source) { ChatTemplate(source).render(emptyList()) }
        val endlessText = "{% set x = namespace(t='0123456789') %}{% for a in range(60) %}{% set x.t = x.t + x.t %}{% endfor %}{{ x.t }}"
        assertFailsWith<ChatTemplateException> { ChatTemplate(endlessText).render(emptyList()) }
        assertFailsWith<ChatTemplateException> { ChatTemplate("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").render(emptyList()) }
        assertFailsWith<ChatTemplateException> { ChatTemplate("{{ " + "(".repeat(100_000)) }
    }

    private fun check(case: Map<*, *>, name: String, template: () -> ChatTemplate) {
        val render = { render(template(), case) }
        val refusal = case["refused"] as String?
        when {
            "text" in case -> assertEquals(case.text("text"), render(), name)
            refusal != null ->
                assertTrue(assertFailsWith<ChatTemplateException>(name) { render() }.message!!.endsWith(refusal), name)
            else -> assertFailsWith<ChatTemplateException>(name) { render() }
        }
    }

    private fun render(template: ChatTemplate, case: Map<*, *>): String = template.render(
        messages = case.objects("messages").map(::named),
        tools = (case["tools"] as List<*>?)?.map { named(it as Map<*, *>) },
        addGenerationPrompt = case["add_generation_prompt"] as Boolean,
        options = named(case.map("options")),
    )

    private fun named(map: Map<*, *>): Map<String, Any?> =
        map.entries.associate { (key, value) -> key as String to value }
}
