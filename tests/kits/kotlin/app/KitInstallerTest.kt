package io.vggtedge

import android.os.storage.StorageManager
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.Files
import java.util.concurrent.CopyOnWriteArrayList
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.runBlocking
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Kits that are copied out of assets or another folder. */
internal class KitInstallerTest : WithKit() {
    private val target = Files.createTempDirectory("installed").resolve("kit").toFile()
    private val opened = CopyOnWriteArrayList<String>()
    private val source = KitSource { name ->
        opened += name
        File(folder, name).inputStream()
    }

    @After
    fun removeTarget() {
        target.parentFile.deleteRecursively()
    }

    private fun install(from: KitSource = source, withGolden: Boolean = false): File = runBlocking {
        KitInstaller(app, target, withGolden).install(from)
    }

    private fun installed(): Set<String> = target.list().orEmpty().toSet()

    /** Another model under the same name. */
    private fun update() {
        File(folder, "vggt.pte").writeText("the next program")
        val found = Kit.read(folder).model.sha256
        changeKit(found, sha256(File(folder, "vggt.pte")))
    }

    @Test
    fun aKitIsCopiedOutOfAssets() {
        val assets = File(folder, "kit").also { it.mkdirs() }
        for (name in listOf("kit.json", "vggt.pte", "golden.safetensors")) File(folder, name).copyTo(File(assets, name))
        assertEquals(target, install(KitSource.assets(app.assets, "kit")))
        assertEquals(setOf("kit.json", "vggt.pte"), installed())
        assertEquals("program".length.toLong(), StorageManager.allocated)
        runBlocking { VGGTModel.load(target).closeAndJoin() }
    }

    @Test
    fun goldenTensorsAreCopiedForAsking() {
        install(KitSource.folder(folder), withGolden = true)
        assertEquals(setOf("kit.json", "vggt.pte", "golden.safetensors"), installed())
        assertTrue(runBlocking { DeviceCheck(app, target, measuredRuns = 1).run() }.passed)
    }

    @Test
    fun whatLiesThereIsNotCopiedAgain() {
        install()
        opened.clear()
        install()
        assertEquals(listOf("kit.json"), opened)
        File(target, "vggt.pte").delete()
        install()
        assertEquals(setOf("kit.json", "vggt.pte"), installed())
    }

    @Test
    fun openModelsKeepTheOldProgram() {
        install()
        File(target, "vggt.pte").inputStream().use { old ->
            update()
            install()
            assertEquals("program", old.readBytes().decodeToString())
        }
        assertEquals("the next program", File(target, "vggt.pte").readText())
        runBlocking { VGGTModel.load(target).closeAndJoin() }
    }

    @Test
    fun filesOfTheOldKitAreRemoved() {
        install()
        File(folder, "vggt.pte").renameTo(File(folder, "next.pte"))
        changeKit("\"vggt.pte\"", "\"next.pte\"")
        install()
        assertEquals(setOf("kit.json", "next.pte"), installed())
    }

    @Test
    fun aFailedCopyLeavesTheOldKit() {
        install()
        update()
        val broken = object : InputStream() {
            override fun read(): Int = throw IOException("the disk is gone")
        }
        val failing = KitSource { name -> if (name == "vggt.pte") broken else source.open(name) }
        assertKitError(KitException.Kind.STORAGE, thrown { install(failing) })
        val other = KitSource { name -> if (name == "vggt.pte") "another".byteInputStream() else source.open(name) }
        assertKitError(KitException.Kind.DAMAGED_FILE, thrown { install(other) })
        assertEquals(setOf("kit.json", "vggt.pte"), installed())
        runBlocking { VGGTModel.load(target).closeAndJoin() }
    }

    @Test
    fun tooLittleSpaceIsSeenBeforeAnythingIsWritten() {
        StorageManager.free = 6
        val error = assertKitError(KitException.Kind.STORAGE, thrown { install() })
        assertTrue(error.what, "7 bytes" in error.what && "6 can be had" in error.what)
        assertEquals(emptySet<String>(), installed())
    }

    @Test
    fun whatIsNoKitIsRefused() {
        assertKitError(KitException.Kind.STORAGE, thrown { install(KitSource.folder(File(folder, "nothing"))) })
        assertKitError(KitException.Kind.DAMAGED_FILE, thrown { install({ "{}".byteInputStream() }) })
        target.parentFile.resolve("file").writeText("")
        val inside = KitInstaller(app, target.parentFile.resolve("file/kit"))
        assertKitError(KitException.Kind.STORAGE, thrown { runBlocking { inside.install(source) } })
    }

    @Test
    fun aCancelledCopyLeavesNothingBehind() = runBlocking {
        val gate = Gate()
        val slow = KitSource { name ->
            if (name != "vggt.pte") return@KitSource source.open(name)
            object : InputStream() {
                override fun read(): Int = 1

                override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
                    gate.pass()
                    return length
                }

                override fun available(): Int = 7
            }
        }
        val call = async(Dispatchers.IO) { KitInstaller(app, target).install(slow) }
        gate.awaitReached()
        call.cancel()
        gate.open()
        call.cancelAndJoin()
        assertEquals(emptySet<String>(), installed())
    }

    @Test
    fun progressGoesUpToTheWhole() = runBlocking {
        val shares = CopyOnWriteArrayList<Double>()
        KitInstaller(app, target).install(source) { shares += it }
        assertEquals(listOf(1.0), shares)
        val javas = KitInstaller(app, target).installAsync(source).get()
        assertEquals(target, javas)
    }
}
