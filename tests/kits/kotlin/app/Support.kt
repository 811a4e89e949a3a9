package io.vggtedge

import android.content.Context
import android.content.res.AssetManager
import android.os.PowerManager
import android.os.storage.StorageManager
import java.io.File
import java.nio.ByteBuffer
import java.nio.file.Files
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import org.junit.After
import org.junit.Assert.assertTrue
import org.junit.Before
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Script
import org.pytorch.executorch.Tensor

internal const val SECONDS = 60L

/** Less than a gate waits: what comes within it did not come because the gate gave up. */
internal const val PATIENCE_MS = 30_000L

/** An app with one folder, and the services that the kit asks for. */
internal class App(private val folder: File) : Context() {
    override fun getAssets() = AssetManager(folder)

    override fun getFilesDir() = folder

    override fun getCacheDir() = folder

    override fun getSystemService(name: String): Any? =
        when (name.substringAfterLast('.')) {
            "PowerManager" -> PowerManager()
            "StorageManager" -> StorageManager()
            else -> null
        }
}

/** A kit in a folder of its own, whose model answers what the simulation gave. */
internal abstract class WithKit {
    protected val folder: File = Files.createTempDirectory("app").toFile()
    protected val app: App = App(folder)
    protected val golden: Map<String, FloatTensor> by lazy { goldenTensors() }

    @Before
    fun writeKit() {
        Script.reset()
        File(folder, Kit.FILE_NAME).writeText(Vectors.kit)
        File(folder, "vggt.pte").writeText("program")
        File(folder, "golden.safetensors").writeBytes(Vectors.golden)
        Script.forward = { _, _ -> answer() }
    }

    @After
    fun removeKit() {
        eventually("every model that was opened is closed") { Script.opened.get() == Script.destroyed.get() }
        folder.deleteRecursively()
        PowerManager.thermalStatus = PowerManager.THERMAL_STATUS_NONE
        StorageManager.free = Long.MAX_VALUE
    }

    protected fun changeKit(from: String, to: String) {
        val file = File(folder, Kit.FILE_NAME)
        assertTrue(from, from in file.readText())
        file.writeText(file.readText().replace(from, to))
    }

    /** Outputs in the order of the kit; [change] may replace the values of one. */
    protected fun answer(change: (String, FloatArray) -> FloatArray = { _, values -> values }): Array<EValue> =
        OUTPUTS.map { name ->
            val tensor = golden.getValue("simulation/$name")
            val values = change(name, tensor.values.copyOf())
            EValue.from(Tensor.fromBlob(values, tensor.shape.toLongArray()))
        }.toTypedArray()

    private fun goldenTensors(): Map<String, FloatTensor> {
        val file = SafetensorsFile(ByteBuffer.wrap(Vectors.golden))
        return file.names.associateWith(file::tensor)
    }

    companion object {
        val OUTPUTS = listOf("pose_enc", "depth", "depth_conf")
        val SIZE = FrameSize(28, 14)
        const val VALUES = 2 * 3 * 14 * 28
    }
}

/** One step that a test lets happen when it wants it to. */
internal class Gate {
    private val reached = CountDownLatch(1)
    private val opened = CountDownLatch(1)

    /** Waits until a test opens the gate. */
    fun pass() {
        reached.countDown()
        assertTrue("nobody opened the gate", opened.await(SECONDS, TimeUnit.SECONDS))
    }

    fun awaitReached() = assertTrue("nobody came to the gate", reached.await(SECONDS, TimeUnit.SECONDS))

    fun open() = opened.countDown()
}

internal fun eventually(what: String, holds: () -> Boolean) {
    val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS)
    while (!holds()) {
        assertTrue(what, System.nanoTime() < end)
        Thread.sleep(5)
    }
}

/** What [action] throws, whatever it is; null where it throws nothing. */
internal inline fun thrown(action: () -> Unit): Throwable? =
    try {
        action()
        null
    } catch (error: Throwable) {
        error
    }

internal fun assertKitError(kind: KitException.Kind, error: Throwable?): KitException {
    assertTrue("$error", error is KitException && error.kind == kind)
    return error as KitException
}

internal fun frame(level: Int): RgbImage =
    RgbImage.of(WithKit.SIZE, ByteArray(3 * WithKit.SIZE.pixelCount) { level.toByte() })
