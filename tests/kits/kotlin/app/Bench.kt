package io.vggtedge

import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.util.Random

/**
 * Milliseconds of the processor for the kit's own arithmetic, the best of some runs: lines of `name milliseconds`.
 *
 * Not of the clock: the machine may be shared.
 */
internal fun main() {
    val random = Random(1)
    val width = 1920
    val height = 1440
    fun plane(bytes: Int, rows: Int, pixels: Int) =
        BytePlane(ByteBuffer.allocateDirect(bytes).apply { put(ByteArray(bytes).also(random::nextBytes)) }
            .also { it.rewind() }, rows, pixels)
    val luma = plane(width * height, width, 1)
    val chroma = List(2) { plane(width * height / 2, width, 2) }
    val target = FrameSize(392, 518)
    best("prepare, YUV 1920 x 1440, turned, to 392 x 518") {
        val rows = PlaneRows(FrameSize(width, height), listOf(luma) + chroma, YCbCrEncoding.CAMERA)
        rows.framed(target, Orientation.CLOCKWISE, Preprocess.FIT)
    }
    val photo = RgbImage.of(FrameSize(4032, 3024), ByteArray(3 * 4032 * 3024).also(random::nextBytes))
    best("prepare, 12 megapixels, turned, to 392 x 518") {
        photo.rows.framed(target, Orientation.CLOCKWISE, Preprocess.FIT)
    }
    val size = FrameSize(518, 392)
    val pixels = 8 * size.pixelCount
    val reference = FloatArray(3 * pixels) { random.nextGaussian().toFloat() }
    val values = FloatArray(3 * pixels) { reference[it] + 0.01f * random.nextFloat() }
    best("Drift.of, 4.9 million values") { Drift.of(values, reference) }
    val confidence = FloatArray(pixels) { 1 + random.nextFloat() }
    best("confident pixels, 1.6 million") { PointCloud.confidentPixels(listOf(confidence)) }
    val cameras = PoseEncoding.cameras(FloatArray(72) { 0.5f + 0.01f * it % 1f }, size)
    best("unproject, 8 x 392 x 518") { PointCloud.unproject(confidence, cameras, size) }
}

private fun best(name: String, action: () -> Unit) {
    val clock = ManagementFactory.getThreadMXBean()
    val times = List(RUNS) {
        val start = clock.currentThreadCpuTime
        action()
        (clock.currentThreadCpuTime - start) / 1e6
    }
    println("$name\t${times.min()}")
}

private const val RUNS = 12
