package org.qwenedge.core

import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.qwenedge.core.artifact.readManifest

class ManifestTest {
    private val golden = Golden.read("manifests.json")

    @Test
    fun `the golden manifest reads as every reader must read it`() {
        val manifest = readManifest(Golden.file("manifest.json").readBytes())
        assertEquals("1.31", manifest.runtime.oldestVersion)
        assertEquals(listOf(302, 300), manifest.eosTokenIds)
        assertEquals(listOf(1L, 96L, 3L), manifest.state[0].shape)
        assertEquals(listOf(null, null, 2, 2), manifest.state.map { it.tokenAxis })
        assertEquals(golden.text("artifact_hash"), manifest.sha256)
    }

    @Test
    fun `every manifest is accepted or refused as in Python, and for the same reason`() {
        val cases = golden.objects("cases")
        assertEquals(true, cases.size > 70)
        for (case in cases) {
            val name = case.text("name")
            when (case.text("expect")) {
                "ok" -> readManifest(bytes(case))
                "newer" -> {
                    val error = assertFailsWith<ManifestVersionException>(name) { readManifest(bytes(case)) }
                    assertContains(error.message!!, case.text("names"))
                }
                else -> {
                    val error = assertFailsWith<ManifestException>(name) { readManifest(bytes(case)) }
                    assertEquals(ManifestException::class, error::class, name)
                    assertContains(error.message!!, case.text("names"), message = name)
                }
            }
        }
    }

    @Test
    fun `a manifest of five megabytes is refused unread`() {
        assertFailsWith<ManifestException> { readManifest(ByteArray(5_000_000) { ' '.code.toByte() }) }
    }

    private fun bytes(case: Map<*, *>): ByteArray = when {
        "text" in case -> case.text("text").toByteArray()
        "base64" in case -> java.util.Base64.getDecoder().decode(case.text("base64"))
        else -> case.text("repeat").repeat(case.text("times").toInt()).toByteArray()
    }
}
