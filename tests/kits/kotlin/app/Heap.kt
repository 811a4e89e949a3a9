package io.vggtedge

import android.graphics.Bitmap
import android.graphics.ColorSpace
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.Files
import kotlin.math.sin
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Script
import org.pytorch.executorch.Tensor

private const val FRAMES = 8
private const val HEIGHT = 392
private const val WIDTH = 518
private val PIXELS = listOf(1L, FRAMES.toLong(), HEIGHT.toLong(), WIDTH.toLong())
private val SHAPES = linkedMapOf(
    "pose_enc" to listOf(1L, FRAMES.toLong(), 9L), "depth" to PIXELS, "depth_conf" to PIXELS,
    "points" to PIXELS + 3L, "points_conf" to PIXELS,
)

/**
 * What has to fit into the heap of a phone, run in a Java machine with that heap: `Heap check` or `Heap photo`.
 *
 * The outputs of the scripted model lie in a mapped file, as those of a real one lie outside of the Java heap.
 */
internal fun main(arguments: Array<String>) {
    val folder = Files.createTempDirectory("heap").toFile()
    val hasPassed = if (arguments.single() == "check") check(folder) else photo()
    folder.deleteRecursively()
    val most = Runtime.getRuntime().maxMemory() shr 20
    println("${arguments.single()} within $most MiB of heap: ${if (hasPassed) "passed" else "failed"}")
    exitProcess(if (hasPassed) 0 else 1)
}

/** A check of eight frames with all five outputs. */
private fun check(folder: File): Boolean {
    val tensors = linkedMapOf("input/images" to listOf(1L, FRAMES.toLong(), 3L, HEIGHT.toLong(), WIDTH.toLong()))
    for (group in listOf("simulation", "fp32")) for ((name, shape) in SHAPES) tensors["$group/$name"] = shape
    val golden = File(folder, "golden.safetensors")
    val places = writeGolden(golden, tensors)
    File(folder, "vggt.pte").writeText("program")
    File(folder, Kit.FILE_NAME).writeText(kit(folder))
    val mapped = FileChannel.open(golden.toPath()).use { it.map(FileChannel.MapMode.READ_ONLY, 0, it.size()) }
    Script.forward = { _, _ ->
        SHAPES.map { (name, shape) ->
            val part = mapped.duplicate().order(ByteOrder.nativeOrder()).position(places.getValue("simulation/$name"))
            val count = shape.fold(1L, Long::times).toInt()
            val values = (part as ByteBuffer).slice().order(ByteOrder.nativeOrder()).asFloatBuffer().limit(count)
            EValue.from(Tensor.fromBlob((values as java.nio.FloatBuffer).slice(), shape.toLongArray()))
        }.toTypedArray()
    }
    return runBlocking { DeviceCheck(App(folder), folder, warmUpRuns = 1, measuredRuns = 2).run() }.passed
}

/** Where the values of each tensor begin. */
private fun writeGolden(file: File, tensors: Map<String, List<Long>>): Map<String, Int> {
    var end = 0L
    val entries = tensors.entries.associate { (name, shape) ->
        val begin = end
        end += 4 * shape.fold(1L, Long::times)
        name to linkedMapOf("dtype" to "F32", "shape" to shape, "data_offsets" to listOf(begin, end))
    }
    val header = jsonText(entries).toByteArray().let { it + ByteArray((8 - it.size % 8) % 8) { ' '.code.toByte() } }
    RandomAccessFile(file, "rw").use { access ->
        val all = access.channel.map(FileChannel.MapMode.READ_WRITE, 0, 8 + header.size + end)
        all.order(ByteOrder.LITTLE_ENDIAN).putLong(header.size.toLong()).put(header)
        var index = 0
        while (all.hasRemaining()) all.putFloat(0.5f + 0.4f * sin(0.1f * index++))
    }
    return entries.mapValues { (_, entry) -> 8 + header.size + ((entry["data_offsets"] as List<*>)[0] as Long).toInt() }
}

private fun kit(folder: File): String {
    val model = mapOf(
        "program" to "vggt.pte", "sha256" to sha256(File(folder, "vggt.pte")), "weights" to null,
        "weights_sha256" to null, "executorch_version" to "1.4.1", "delegate" to "xnnpack",
        "memory" to mapOf("planned_bytes" to 0),
    )
    val input = mapOf(
        "name" to "images", "frames" to FRAMES, "height" to HEIGHT, "width" to WIDTH, "order" to "NCHW",
        "layout" to "contiguous", "dtype" to "float32",
    )
    val golden = mapOf("file" to "golden.safetensors", "sha256" to sha256(File(folder, "golden.safetensors")))
    return jsonText(
        mapOf(
            "schema_version" to 1, "target" to "heap", "plan_digest" to "0", "model" to model, "input" to input,
            "outputs" to SHAPES.map { (name, shape) -> mapOf("name" to name, "shape" to shape) },
            "blocks" to emptyList<Any>(), "tolerances" to mapOf("backend_sqnr_db_min" to 30.0), "golden" to golden,
        )
    )
}

/** A photo of 50 megapixels, turned. */
private fun photo(): Boolean {
    val colors = ColorSpace.get(ColorSpace.Named.SRGB)
    val photo = Bitmap(8160, 6144, Bitmap.Config.ARGB_8888, colors) { x, y -> -0x1000000 or (x * 7 + y * 13 and 0xff) }
    val size = FrameSize(392, 518)
    return BitmapRows(photo).framed(size, Orientation.CLOCKWISE, Preprocess.FIT).size == size
}
