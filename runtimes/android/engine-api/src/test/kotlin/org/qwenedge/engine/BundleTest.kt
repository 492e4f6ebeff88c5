package org.qwenedge.engine

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.qwenedge.core.FileMismatchException
import org.qwenedge.core.ManifestException
import org.qwenedge.core.ManifestVersionException
import org.qwenedge.core.NoSpaceException
import org.qwenedge.core.OracleException
import org.qwenedge.core.artifact.ArtifactSource
import org.qwenedge.core.artifact.Manifest
import org.qwenedge.core.artifact.Progress
import org.qwenedge.core.oracle.Oracle

/** Bundles come from anywhere: whatever is wrong with one is said, and nothing of it is used. */
class BundleTest {
    private var version = "1.31.1"
    private var runtime = "onnxruntime"
    private val phone = Phone { FakeFactory(runtime, version) { ScriptedEngine(emptyList(), endToken = 2018) } }
    private val outside get() = TestArtifact(phone.pushed.resolveSibling("outside"))

    @Test
    fun `an import is checked, complete and ready to be chosen`() {
        val done = phone.store.importBundle(outside.asSource()).single()
        assertNotNull(done.artifact)
        assertEquals(listOf(done.name), phone.store.list().map { it.name })
        assertTrue(phone.imported.list()!!.none { it.startsWith(".") })
        phone.session.choose(done)
        assertEquals(Phase.READY, phone.view.phase)
    }

    @Test
    fun `an import with a byte that differs installs nothing`() {
        val source = outside.spoil("model.onnx", "WEIGHTS").asSource()
        val error = assertFailsWith<FileMismatchException> { phone.store.importBundle(source) }
        assertContains(error.message!!, "model.onnx differs")
        assertNothingInstalled()
    }

    @Test
    fun `an import of a longer file than promised stops reading and installs nothing`() {
        val whole = outside.asSource()
        val endless = ArtifactSource { path -> if (path == "model.onnx") "weights and more".byteInputStream() else whole.open(path) }
        assertFailsWith<FileMismatchException> { phone.store.importBundle(endless) }
        assertNothingInstalled()
    }

    @Test
    fun `an import that breaks off installs nothing`() {
        val whole = outside.asSource()
        val torn = ArtifactSource { path ->
            if (path == "tokenizer.json") object : java.io.InputStream() {
                override fun read(): Int = throw IOException("the card was removed")
            } else whole.open(path)
        }
        assertContains(assertFailsWith<FileMismatchException> { phone.store.importBundle(torn) }.message!!, "the card was removed")
        assertNothingInstalled()
    }

    @Test
    fun `an import without a manifest, or with a file missing, says so`() {
        val empty = assertFailsWith<FileMismatchException> { phone.store.importBundle({ null }) }
        assertContains(empty.message!!, "choose the folder that holds it")
        val artifact = outside.apply { directory.resolve("model.onnx").delete() }
        val error = assertFailsWith<FileMismatchException> { phone.store.importBundle(artifact.asSource()) }
        assertContains(error.message!!, "model.onnx is missing")
        assertNothingInstalled()
    }

    @Test
    fun `an import that leads outside its folder is refused`() {
        val artifact = outside
        val manifest = artifact.directory.resolve(Manifest.FILE_NAME)
        manifest.writeText(manifest.readText().replace("\"chat_template.jinja\"", "\"../chat_template.jinja\""))
        assertFailsWith<ManifestException> { phone.store.importBundle(artifact.asSource()) }
        assertNothingInstalled()
    }

    @Test
    fun `an import can be told to end, and what it left is cleaned up`() {
        assertFailsWith<IllegalStateException> { phone.store.importBundle(outside.asSource(), Progress { _, _ -> error("enough") }) }
        phone.imported.resolve(".partial-of-a-killed-process").mkdirs()
        phone.store.cleanUp()
        assertNothingInstalled()
    }

    @Test
    fun `a bundle is installed whole with its oracle, or not at all`() {
        val bundle = bundle()
        bundle.resolve("two/model.onnx").writeText("WEIGHTS")
        val error = assertFailsWith<FileMismatchException> { phone.store.importBundle(sourceOf(bundle)) }
        assertContains(error.message!!, "model.onnx differs")
        assertNothingInstalled()
        bundle.resolve("two/model.onnx").writeText("weights")
        val shares = ArrayList<Double>()
        val done = phone.store.importBundle(sourceOf(bundle), Progress { part, whole -> shares += part.toDouble() / whole })
        assertEquals(2, done.size)
        assertEquals(done.map { it.name }.toSet(), phone.store.list().mapNotNull { it.artifact?.directory?.name }.toSet())
        for (entry in done) assertEquals("{}", entry.directory.resolve("oracle.json").readText())
        assertEquals(shares.sorted(), shares, "one share of the whole bundle")
        assertEquals(1.0, shares.last())
    }

    @Test
    fun `room is looked for before the first byte is copied, and for all artifacts of a bundle`() {
        val bundle = bundle()
        val most = phone.pushed.usableSpace / 10 * 6
        for (name in listOf("one", "two")) {
            val manifest = bundle.resolve("$name/manifest.json")
            manifest.writeText(manifest.readText().replace("\"bytes\": 7,", "\"bytes\": $most,").also { assertContains(it, "$most") })
        }
        val opened = ArrayList<String>()
        val source = sourceOf(bundle)
        val error = assertFailsWith<NoSpaceException> {
            phone.store.importBundle({ path -> source.open(path).also { opened += path } })
        }
        assertContains(error.message!!, "make room")
        assertTrue(opened.none { it.endsWith("model.onnx") }, "copied before there was room for all")
        assertNothingInstalled()
    }

    @Test
    fun `an import whose last rename fails takes back what it has installed`() {
        val bundle = bundle()
        val second = phone.store.importBundle(sourceOf(bundle)).last()
        phone.store.list().forEach(phone.store::delete)
        // something lies in the way of the second artifact when it is to appear
        val inTheWay = Progress { _, _ -> second.directory.resolve("way").mkdirs() }
        val error = assertFailsWith<FileMismatchException> { phone.store.importBundle(sourceOf(bundle), inTheWay) }
        assertContains(error.message!!, "nothing was installed")
        second.directory.deleteRecursively()
        assertNothingInstalled()
    }

    @Test
    fun `an artifact that was imported alone gets the oracle when its bundle is imported`() {
        val bundle = bundle()
        val alone = phone.store.importBundle(sourceOf(bundle.resolve("one"))).single()
        assertFalse(alone.directory.resolve("oracle.json").exists())
        phone.store.importBundle(sourceOf(bundle))
        assertEquals("{}", alone.directory.resolve("oracle.json").readText())
        assertEquals(2, phone.store.list().size)
        bundle.resolve("oracle.json").writeText("{\"another\": 1}")
        phone.store.importBundle(sourceOf(bundle))
        assertContains(alone.directory.resolve("oracle.json").readText(), "another")
        bundle.resolve("oracle.json").delete()
        phone.store.importBundle(sourceOf(bundle))
        assertContains(alone.directory.resolve("oracle.json").readText(), "another", message = "an import without one took it away")
        assertTrue(phone.imported.list()!!.none { it.startsWith(".") })
    }

    @Test
    fun `an oracle that is too long is refused by name, and nothing is installed`() {
        val bundle = bundle()
        RandomAccessFile(bundle.resolve("oracle.json"), "rw").use { it.setLength(Oracle.MAX_BYTES + 1L) }
        val error = assertFailsWith<OracleException> { phone.store.importBundle(sourceOf(bundle)) }
        assertContains(error.message!!, "oracle.json: more than the ${Oracle.MAX_BYTES} bytes")
        assertNothingInstalled()
    }

    @Test
    fun `a bundle that is too new is listed with the reason`() {
        val entry = phone.push { change("schema_version", 1000L) }
        assertNull(entry.artifact)
        assertContains(entry.problem!!, "newer version of this project")
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "newer version")
        assertFailsWith<ManifestVersionException> { phone.store.importBundle(outside.change("schema_version", 1000L).asSource()) }
    }

    @Test
    fun `a bundle with a short or missing file is listed with the reason`() {
        assertContains(phone.push("short") { spoil("model.onnx", "w") }.problem!!, "1 bytes, the manifest says 7")
        assertContains(phone.push("gone") { directory.resolve("model.onnx").delete() }.problem!!, "missing")
    }

    @Test
    fun `a pushed bundle with a wrong byte is found before its first use`() {
        val entry = phone.push { spoil("model.onnx", "WEIGHTS") }
        phone.session.choose(entry)
        assertContains(phone.view.notice!!, "SHA-256 is not that of the manifest")
    }

    @Test
    fun `a pushed bundle is read once for its hashes, and again after it changed`() {
        val artifact = phone.push().artifact!!
        var reads = 0
        phone.store.verify(artifact) { _, _ -> reads++ }
        val first = reads
        phone.store.verify(artifact) { _, _ -> reads++ }
        assertEquals(first, reads)
        artifact.modelFile.apply { writeText("WEIGHTS") }.setLastModified(1_000_000)
        assertFailsWith<FileMismatchException> { phone.store.verify(artifact) }
    }

    @Test
    fun `a link that leads outside is refused`() {
        val secret = phone.pushed.resolveSibling("secret").apply { writeText("weights") }
        val entry = phone.push {
            directory.resolve("model.onnx").delete()
            java.nio.file.Files.createSymbolicLink(directory.resolve("model.onnx").toPath(), secret.toPath())
        }
        assertContains(entry.problem!!, "leads outside")
    }

    @Test
    fun `a tokenizer of another model is refused`() {
        phone.session.choose(phone.push { change("vocab_size", 2020L) })
        assertContains(phone.view.notice!!, "belongs to another model")
    }

    @Test
    fun `a template that does not compile is a notice`() {
        phone.session.choose(phone.push { spoil("chat_template.jinja", "{% if %}").change("scheme", "int8") })
        assertContains(phone.view.notice!!, "does not compile")
    }

    @Test
    fun `a bundle for a runtime that is not in the app, or for a newer one, says which`() {
        runtime = "executorch"
        phone.session.choose(phone.push("one"))
        assertContains(phone.view.notice!!, "runs on onnxruntime; this app has [executorch]")
        runtime = "onnxruntime"
        version = "1.30.9"
        phone.session.choose(phone.push("two"))
        assertContains(phone.view.notice!!, "needs onnxruntime 1.31 or newer, this app has 1.30.9")
    }

    /** Two artifacts, what names them, and an oracle. */
    private fun bundle(): File {
        val bundle = phone.pushed.resolveSibling("bundle")
        TestArtifact(bundle.resolve("one"))
        TestArtifact(bundle.resolve("two")).change("scheme", "int8")
        bundle.resolve("bundle.json").writeText("{\"artifacts\": {\"one\": {}, \"two\": {}}}")
        bundle.resolve("oracle.json").writeText("{}")
        return bundle
    }

    private fun sourceOf(folder: File) = ArtifactSource { path -> folder.resolve(path).takeIf { it.isFile }?.inputStream() }

    private fun assertNothingInstalled() {
        assertEquals(emptyList(), phone.store.list())
        assertEquals(emptyList(), phone.imported.list().orEmpty().toList())
    }
}
