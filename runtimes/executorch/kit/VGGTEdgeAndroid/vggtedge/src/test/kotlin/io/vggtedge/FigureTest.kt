package io.vggtedge

import java.nio.ByteBuffer
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class FigureTest {
    @Test
    fun driftIsThatOfTheReport() {
        for (case in Vectors.cases("drifts")) {
            val drift = Drift.of(case.floats("values"), case.floats("reference")).toMap()
            val expected = case.table("drift")
            assertEquals(drift.keys, expected.keys)
            for ((key, ours) in drift) {
                assertNear(doubleArrayOf(checkNotNull(expected.numberOrNull(key))), doubleArrayOf(ours), 1e-6)
            }
        }
    }

    @Test
    fun driftOfSenselessValuesIsRefused() {
        assertRefused(KitException.Kind.WRONG_INPUT) { Drift.of(FloatArray(0), FloatArray(0)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { Drift.of(FloatArray(1), FloatArray(2)) }
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) { Drift.of(floatArrayOf(Float.NaN), FloatArray(1)) }
    }

    @Test
    fun figuresThatAreNoneAreRefused() {
        assertRefused(KitException.Kind.WRONG_INPUT) { Drift(Double.NaN, 1.0, 1.0, 1.0, 1.0, 1.0) }
        assertRefused(KitException.Kind.WRONG_INPUT) { Latency.of(listOf(-1.0)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { Latency.of(listOf(1.0, Double.NaN)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { FloatTensor(listOf(-1, -4), FloatArray(4)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { FloatTensor(listOf(1L shl 62, 4), FloatArray(0)) }
        assertEquals(0, FloatTensor(listOf(1L shl 62, 0), FloatArray(0)).values.size)
        assertRefused(KitException.Kind.WRONG_INPUT) { Intrinsics(0.0, 1.0, 1.0, 1.0) }
        assertRefused(KitException.Kind.WRONG_INPUT) { FrameSize(65536, 65536) }
    }

    /** Selecting a rank gives what sorting would: equal values, ordered ones, and orders made against the pivots. */
    @Test
    fun percentilesAreThoseOfSortedValues() {
        val random = java.util.Random(3)
        for (size in listOf(1, 2, 3, 10, 999, 4096)) {
            val arrays = listOf(
                DoubleArray(size) { random.nextGaussian() },
                DoubleArray(size) { it.toDouble() },
                DoubleArray(size) { -it.toDouble() },
                DoubleArray(size) { (it % 3).toDouble() },
                DoubleArray(size) { if (it % 2 == 0) it.toDouble() else -it.toDouble() },
            )
            for (values in arrays) for (share in listOf(0.0, 0.25, 0.5, 0.99, 1.0)) {
                val sorted = values.sortedArray()
                val position = share * (size - 1)
                val below = position.toInt()
                val above = minOf(below + 1, size - 1)
                val expected = sorted[below] + (sorted[above] - sorted[below]) * (position - below)
                assertEquals(expected, percentile(values.copyOf(), share), 0.0)
            }
        }
    }

    @Test
    fun latencyIsByTheNearestRank() {
        for (case in Vectors.cases("latencies")) {
            val times = case.doubles("milliseconds").toList()
            val latency = Latency.of(times)
            val expected = case.table("latency")
            for ((key, ours) in latency.toMap()) {
                assertEquals(key, checkNotNull(expected.numberOrNull(key)), (ours as Number).toDouble(), 0.0)
            }
            assertEquals(times.min(), latency.minMs, 0.0)
            assertEquals(times.max(), latency.maxMs, 0.0)
        }
        assertRefused(KitException.Kind.WRONG_INPUT) { Latency.of(emptyList()) }
    }

    private val kit = Kit.parse(Vectors.kit)
    private val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)

    private fun judged(name: String, values: FloatArray, limits: Kit.Tolerances = kit.tolerances) =
        OutputAccuracy.of(name, values, golden, limits)

    @Test
    fun outputsAreJudgedByTheSimulation() {
        val depth = golden.simulation("depth").values
        val equal = judged("depth", depth)
        assertTrue(equal.passed)
        assertEquals(200.0, equal.againstSimulation?.sqnrDb)
        assertTrue((equal.againstFp32?.sqnrDb ?: 0.0) in 30.0..50.0)
        val far = judged("depth", FloatArray(depth.size) { 1.1f * depth[it] })
        assertEquals(Verdict.FAILED, far.verdict)
        assertEquals("failed", far.toMap()["status"])
        assertTrue(far.summary, far.summary.startsWith("depth: SQNR 20.00 dB"))
        assertRefused(KitException.Kind.DAMAGED_FILE) { judged("points", depth) }
    }

    @Test
    fun withoutALimitNothingIsJudged() {
        val accuracy = judged("depth", far(golden.simulation("depth").values), Kit.Tolerances(null, null))
        assertEquals(Verdict.NOT_JUDGED, accuracy.verdict)
        assertFalse(accuracy.passed)
    }

    private fun far(values: FloatArray) = FloatArray(values.size) { values[it] + 5f }

    @Test
    fun nanNeverPasses() {
        val values = golden.simulation("depth").values.copyOf().also { it[3] = Float.NaN }
        val accuracy = judged("depth", values, Kit.Tolerances(null, null))
        assertEquals(Verdict.FAILED, accuracy.verdict)
        assertNull(accuracy.againstSimulation)
        assertNull(accuracy.toMap()["against_fp32"])
    }

    @Test
    fun otherSignsOfQuaternionsAreNoDrift() {
        val pose = golden.simulation("pose_enc").values.copyOf()
        for (index in 3..6) pose[index] = -pose[index]
        val accuracy = judged("pose_enc", pose)
        assertEquals(200.0, accuracy.againstSimulation?.sqnrDb)
        assertEquals(0.0, accuracy.pose?.rotationDegrees ?: 1.0, 1e-5)
        assertEquals(0.0, accuracy.pose?.translationDegrees ?: 1.0, 1e-5)
    }

    /** A camera turned by four degrees passes by its SQNR and fails by its angle. */
    @Test
    fun posesAreJudgedByAngles() {
        val pose = golden.simulation("pose_enc").values.copyOf()
        val (x, y, z, w) = List(4) { pose[12 + it].toDouble() }
        val (sine, cosine) = Math.toRadians(2.0).let { kotlin.math.sin(it) to kotlin.math.cos(it) }
        // Behind the rotation comes one about the first axis.
        val turned = listOf(cosine * x + sine * w, cosine * y + sine * z, cosine * z - sine * y, cosine * w - sine * x)
        for (index in 0 until 4) pose[12 + index] = turned[index].toFloat()
        val far = Kit.Tolerances(10.0, 3.9)
        assertEquals(4.0, judged("pose_enc", pose, far).pose?.rotationDegrees ?: 0.0, 1e-4)
        assertEquals(Verdict.FAILED, judged("pose_enc", pose, far).verdict)
        assertEquals(Verdict.PASSED, judged("pose_enc", pose, Kit.Tolerances(10.0, 90.0)).verdict)
        assertEquals(Verdict.PASSED, judged("pose_enc", pose, Kit.Tolerances(10.0, null)).verdict)
        for (index in 12..15) pose[index] = 0f
        assertEquals(Verdict.FAILED, judged("pose_enc", pose, Kit.Tolerances(1.0, 90.0)).verdict)
    }

    private fun result(outputs: List<OutputAccuracy>): CheckResult {
        val device = DeviceDescription("Maker \"Phone\"", "Android 15 (B1)", "arm64-v8a", false)
        val times = CheckTimes(1500.0, 250.0, 1750.0, Latency.of(listOf(5.0)))
        return CheckResult(kit, device, 2, outputs, times, ThermalStates("none", "light"), false, null, 0)
    }

    @Test
    fun resultsOfAWholeCheck() {
        val outputs = kit.outputs.map { output ->
            val values = golden.simulation(output.name).values
            judged(output.name, if (output.name == "depth") far(values) else values)
        }
        val result = result(outputs)
        assertEquals(Verdict.FAILED, result.verdict)
        assertTrue(result.failures, result.failures.startsWith("depth: ") && ";" !in result.failures)
        val json = JsonReader(result.toJson()).value() as JsonTable
        assertEquals(kit.planDigest, json.text("plan_digest"))
        assertEquals("failed", json.text("status"))
        assertEquals(3, json.tables("outputs").size)
        assertEquals("Maker \"Phone\"", json.table("device").text("model"))
        assertEquals("light", json.table("thermal").text("after"))
        assertEquals(1500.0, json.table("timings_ms").numberOrNull("load"))
        assertNull(json.table("memory_bytes").numberOrNull("value"))
    }

    @Test
    fun nothingJudgedIsNothingPassed() {
        assertEquals(Verdict.NOT_JUDGED, result(emptyList()).verdict)
        assertFalse(result(emptyList()).passed)
        val depth = judged("depth", golden.simulation("depth").values)
        assertEquals(Verdict.PASSED, result(listOf(depth)).verdict)
        val free = judged("depth", golden.simulation("depth").values, Kit.Tolerances(null, null))
        assertEquals(Verdict.NOT_JUDGED, result(listOf(depth, free)).verdict)
    }

    @Test
    fun predictionsGiveCamerasAndPoints() {
        val outputs = kit.outputs.associate { it.name to golden.simulation(it.name) }
        val prediction = Prediction(outputs, kit.input.frames, kit.input.frameSize)
        assertEquals(2, prediction.cameras().size)
        val pixels = kit.input.frames * kit.input.frameSize.pixelCount
        assertEquals(3 * pixels, prediction.pointCloud(1.0).size)
        assertTrue(prediction.pointCloud().size in 3 * pixels / 2..3 * pixels / 2 + 3)
        val unsure = Prediction(outputs - "depth_conf", kit.input.frames, kit.input.frameSize)
        assertEquals(3 * pixels, unsure.pointCloud(1.0).size)
        assertRefused(KitException.Kind.WRONG_INPUT) { unsure.pointCloud() }
        val none = Prediction(emptyMap(), kit.input.frames, kit.input.frameSize)
        assertRefused(KitException.Kind.WRONG_INPUT) { none.cameras() }
        assertRefused(KitException.Kind.WRONG_INPUT) { none.pointCloud() }
    }

    @Test
    fun pointsThatAreNoneAreRefused() {
        val depth = golden.simulation("depth")
        val broken = FloatTensor(depth.shape, depth.values.copyOf().also { it[3] = Float.NaN })
        val outputs = kit.outputs.associate { it.name to golden.simulation(it.name) } + ("depth" to broken)
        val prediction = Prediction(outputs, kit.input.frames, kit.input.frameSize)
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) { prediction.pointCloud() }
    }
}
