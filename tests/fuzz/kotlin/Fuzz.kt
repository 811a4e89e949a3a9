package io.vggtedge

import java.io.File
import java.nio.ByteBuffer
import java.util.Random
import kotlin.system.exitProcess

/**
 * Hostile input for every reader and every public function that computes: `Fuzz COUNT [SEED]`.
 *
 * The only thing that may be thrown is a [KitException]. An input that leads to anything else is printed.
 */
internal fun main(arguments: Array<String>) {
    val count = arguments.getOrNull(0)?.toInt() ?: 2000
    val seed = arguments.getOrNull(1)?.toLong() ?: 1
    var failures = 0
    for ((name, target) in targets()) {
        val start = System.nanoTime()
        var taken = 0
        for (index in 0 until count) {
            val random = Random(seed * 1_000_003 + index)
            try {
                target(random)
                taken += 1
            } catch (error: KitException) {
                if (error.what.length > LONGEST_WORDS) failures += report(name, index, error)
            } catch (error: Throwable) {
                failures += report(name, index, error)
            }
        }
        println("$name: $count inputs, $taken taken, ${(System.nanoTime() - start) / 1_000_000} ms")
    }
    println(if (failures == 0) "nothing but the kit's own errors" else "$failures failures")
    exitProcess(if (failures == 0) 0 else 1)
}

private const val LONGEST_WORDS = 600

private fun report(name: String, index: Int, error: Throwable): Int {
    println("$name, input $index: $error at ${error.stackTrace.firstOrNull()}")
    return 1
}

private fun targets(): Map<String, (Random) -> Unit> {
    val kit = Vectors.kit.toByteArray()
    val golden = Vectors.golden
    val json = "{\"a\":[1,-2.5e3,\"\\u00e9\\n\",null,true,{}],\"b\":{\"c\":[]}}".toByteArray()
    return linkedMapOf(
        "Kit.parse" to { random -> Kit.parse(mutated(kit, random)) },
        "json" to { random -> readJson(mutated(json, random), Kit::damaged) { it.keys } },
        "SafetensorsFile" to { random -> readAll(SafetensorsFile(ByteBuffer.wrap(mutated(golden, random, HEADER)))) },
        "GoldenTensors" to { random ->
            val file = SafetensorsFile(ByteBuffer.wrap(mutated(golden, random, HEADER)))
            GoldenTensors.of(file, Kit.parse(Vectors.kit)).images()
        },
        "picture files" to pictureFiles(),
        "FrameSize.fitting" to { random -> FrameSize.fitting(FrameSize(whole(random), whole(random)), whole(random)) },
        "pictures" to ::pictures,
        "planes" to ::planes,
        "geometry" to ::geometry,
        "figures" to ::figures,
    )
}

private const val HEADER = 700

/** Their headers; decoding is the system's. */
private fun pictureFiles(): (Random) -> Unit {
    val files = File(System.getProperty("picture.cases")).listFiles { file -> file.extension != "json" }.orEmpty()
    val seeds = files.sorted().map { it.readBytes() }
    return { random ->
        try {
            PictureHeader.orientation(ByteBuffer.wrap(mutated(seeds[random.nextInt(seeds.size)], random)))
        } catch (problem: PictureProblem) {
            throw wrongInput(problem.message.orEmpty(), problem.remedy)
        }
    }
}

private fun readAll(file: SafetensorsFile) = file.names.forEach { file.tensor(it) }

/** Some bytes changed, taken out, doubled or exchanged with words that parsers read differently. */
private fun mutated(seed: ByteArray, random: Random, reach: Int = seed.size): ByteArray {
    var bytes = seed
    repeat(1 + random.nextInt(3)) {
        val at = random.nextInt(minOf(reach, bytes.size).coerceAtLeast(1))
        val end = minOf(bytes.size, at + random.nextInt(24))
        bytes = when (random.nextInt(10)) {
            0 -> bytes.copyOf().also { if (it.isNotEmpty()) it[at] = random.nextInt(256).toByte() }
            1 -> bytes.copyOfRange(0, at) + bytes.copyOfRange(end, bytes.size)
            2 -> bytes.copyOfRange(0, end) + bytes.copyOfRange(at, bytes.size)
            3 -> bytes.copyOfRange(0, at) + WORDS[random.nextInt(WORDS.size)] + bytes.copyOfRange(end, bytes.size)
            4 -> bytes.copyOf(random.nextInt(bytes.size + 8))
            else -> retyped(bytes, at, random)
        }
    }
    return bytes
}

/** The next digit or letter from [at] on becomes another one: most of these stay readable. */
private fun retyped(bytes: ByteArray, at: Int, random: Random): ByteArray {
    val place = (at until bytes.size).firstOrNull { bytes[it].toInt().toChar().isLetterOrDigit() } ?: return bytes
    val isDigit = bytes[place].toInt().toChar().isDigit()
    val other = if (isDigit) '0' + random.nextInt(10) else 'a' + random.nextInt(26)
    return bytes.copyOf().also { it[place] = other.code.toByte() }
}

private val WORDS = listOf(
    "null", "true", "-1", "1e400", "016", "NaN", "\"\"", "\"../a\"", "\"a\\u0000\"", "[[[[", "{}", "\"\\ud800\"", "/*",
    "9223372036854775807", "-9223372036854775808", "4611686018427387904", "2147483648", "0.1", "\uFEFF", "\"a\":1,",
).map { it.toByteArray() } + byteArrayOf(-1, -64) + ByteArray(9)

private fun whole(random: Random): Int =
    when (random.nextInt(6)) {
        0 -> random.nextInt()
        1 -> listOf(0, -1, 1, Int.MAX_VALUE, Int.MIN_VALUE, 65536, 32768, 16384).let { it[random.nextInt(it.size)] }
        else -> random.nextInt(100)
    }

private fun number(random: Random): Float =
    when (random.nextInt(8)) {
        0 -> Float.fromBits(random.nextInt())
        1 -> listOf(0f, -0f, Float.NaN, Float.POSITIVE_INFINITY, Float.MAX_VALUE, Float.MIN_VALUE)[random.nextInt(6)]
        else -> random.nextGaussian().toFloat()
    }

/** Half of the time without the numbers that nothing can be computed from. */
private fun numbers(random: Random, count: Int): FloatArray {
    val isPlain = random.nextBoolean()
    return FloatArray(count) { if (isPlain) random.nextGaussian().toFloat() else number(random) }
}

private fun pictures(random: Random) {
    val size = FrameSize(1 + random.nextInt(60), 1 + random.nextInt(60))
    val bytes = if (random.nextInt(8) == 0) whole(random).coerceIn(0, 20_000) else 3 * size.pixelCount
    val picture = RgbImage.of(size, ByteArray(bytes).also(random::nextBytes))
    val turn = QuarterTurn.entries[random.nextInt(4)]
    val target = FrameSize(14 * random.nextInt(5), if (random.nextInt(4) == 0) whole(random) else 14)
    picture.turned(turn).resizedToCover(target)
}

private fun planes(random: Random) {
    fun plane(bytes: Int): BytePlane {
        val buffer = ByteBuffer.allocate(bytes.coerceIn(0, 5000))
        if (random.nextInt(3) == 0) buffer.position(random.nextInt(buffer.limit() + 1))
        val stride = if (random.nextInt(5) == 0) whole(random) else 1 + random.nextInt(40)
        return BytePlane(buffer, stride, if (random.nextInt(5) == 0) whole(random) else 1 + random.nextInt(3))
    }
    val size = FrameSize(1 + random.nextInt(30), 1 + random.nextInt(30))
    val encoding = YCbCrEncoding(
        YCbCrEncoding.Matrix.entries[random.nextInt(3)],
        YCbCrEncoding.Levels.entries[random.nextInt(2)],
    )
    RgbImage.ofPlanes(size, plane(random.nextInt(3000)), plane(whole(random)), plane(random.nextInt(2000)), encoding)
}

private fun geometry(random: Random) {
    val size = if (random.nextInt(4) == 0) FrameSize(whole(random), whole(random)) else FrameSize(4, 3)
    val frames = 1 + random.nextInt(4)
    val length = if (random.nextInt(4) == 0) whole(random).coerceIn(0, 99) else 9 * frames
    val cameras = PoseEncoding.cameras(numbers(random, length), size)
    PoseErrors.of(cameras.map { it.extrinsics }, cameras.reversed().map { it.extrinsics })
    val count = if (random.nextInt(4) == 0) random.nextInt(64) else 12 * frames
    PointCloud.unproject(FloatArray(count) { random.nextFloat() }, cameras, size)
    PointCloud.confidentPixels(listOf(numbers(random, count), numbers(random, count)), random.nextGaussian())
}

private fun figures(random: Random) {
    val count = random.nextInt(40)
    val values = numbers(random, count)
    val reference = if (random.nextInt(3) == 0) numbers(random, random.nextInt(40)) else values.reversedArray()
    Drift.of(values, reference)
    Latency.of(values.map { it.toDouble() })
    FloatTensor(List(random.nextInt(4)) { whole(random).toLong() * whole(random) }, values)
}
