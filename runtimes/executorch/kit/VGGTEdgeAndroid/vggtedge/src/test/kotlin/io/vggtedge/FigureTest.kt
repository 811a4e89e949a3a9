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
        val keys = listOf("cosine", "sqnr_db", "max_abs", "p99_abs", "max_rel", "p99_rel")
        for (case in Vectors.cases("drifts")) {
            val drift = Drift.of(case.floats("values"), case.floats("reference")).toJson()
            val expected = case.getJSONObject("drift")
            assertEquals(keys.toSet(), expected.keys().asSequence().map { it.toString() }.toSet())
            val (theirs, ours) = listOf(expected, drift).map { json -> keys.map { json.getDouble(it) }.toDoubleArray() }
            assertNear(theirs, ours, 1e-6)
        }
    }

    @Test
    fun driftOfSenselessValuesIsRefused() {
        assertRefused(KitException.Kind.WRONG_INPUT) { Drift.of(FloatArray(0), FloatArray(0)) }
        assertRefused(KitException.Kind.WRONG_INPUT) { Drift.of(FloatArray(1), FloatArray(2)) }
        assertRefused(KitException.Kind.UNUSABLE_OUTPUT) { Drift.of(floatArrayOf(Float.NaN), FloatArray(1)) }
    }

    @Test
    fun latencyIsByTheNearestRank() {
        for (case in Vectors.cases("latencies")) {
            val latency = Latency.of(case.getJSONArray("milliseconds").doubles().toList()).toJson()
            val expected = case.getJSONObject("latency")
            for (key in listOf("median_ms", "p90_ms", "p99_ms", "runs")) {
                assertEquals(expected.getDouble(key), latency.getDouble(key), 0.0)
            }
        }
        assertRefused(KitException.Kind.WRONG_INPUT) { Latency.of(emptyList()) }
    }

    @Test
    fun outputsAreJudgedByTheSimulation() {
        val kit = Kit.parse(Vectors.kit)
        val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)
        val depth = golden.simulation.getValue("depth").values
        val equal = OutputAccuracy.of("depth", depth, golden, kit.tolerances)
        assertTrue(equal.passed)
        assertEquals(200.0, equal.againstSimulation?.sqnrDb)
        assertTrue((equal.againstFp32?.sqnrDb ?: 0.0) in 30.0..50.0)
        val far = OutputAccuracy.of("depth", FloatArray(depth.size) { 1.1f * depth[it] }, golden, kit.tolerances)
        assertFalse(far.passed)
        assertEquals("failed", far.toJson().getString("status"))
        assertTrue(far.summary, far.summary.startsWith("depth: SQNR 20.00 dB"))
        assertTrue(OutputAccuracy.of("depth", far(depth), golden, Kit.Tolerances(null)).passed)
        assertRefused(KitException.Kind.DAMAGED_FILE) { OutputAccuracy.of("points", depth, golden, kit.tolerances) }
    }

    private fun far(values: FloatArray) = FloatArray(values.size) { values[it] + 5f }

    @Test
    fun nanNeverPasses() {
        val kit = Kit.parse(Vectors.kit)
        val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)
        val values = golden.simulation.getValue("depth").values.copyOf().also { it[3] = Float.NaN }
        val accuracy = OutputAccuracy.of("depth", values, golden, Kit.Tolerances(null))
        assertFalse(accuracy.passed)
        assertNull(accuracy.againstSimulation)
        assertTrue(accuracy.toJson().isNull("against_fp32"))
    }

    @Test
    fun otherSignsOfQuaternionsAreNoDrift() {
        val kit = Kit.parse(Vectors.kit)
        val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)
        val pose = golden.simulation.getValue("pose_enc").values.copyOf()
        for (index in 3..6) pose[index] = -pose[index]
        assertEquals(200.0, OutputAccuracy.of("pose_enc", pose, golden, kit.tolerances).againstSimulation?.sqnrDb)
    }

    @Test
    fun resultsOfAWholeCheck() {
        val kit = Kit.parse(Vectors.kit)
        val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)
        val accuracy = golden.simulation.map { (name, tensor) ->
            OutputAccuracy.of(name, if (name == "depth") far(tensor.values) else tensor.values, golden, kit.tolerances)
        }
        val device = DeviceDescription("Maker Phone", "Android 15 (B1)", "arm64-v8a", "none", false)
        val result = CheckResult(kit, device, 0, accuracy, Latency.of(listOf(5.0)), 1.5, null)
        assertFalse(result.passed)
        assertTrue(result.failures, result.failures.startsWith("depth: ") && ";" !in result.failures)
        val json = result.toJson()
        assertEquals(kit.planDigest, json.getString("plan_digest"))
        assertEquals(3, json.getJSONArray("accuracy").length())
        assertTrue(json.isNull("peak_memory_bytes"))
    }

    @Test
    fun predictionsGiveCamerasAndPoints() {
        val kit = Kit.parse(Vectors.kit)
        val golden = GoldenTensors.of(SafetensorsFile(ByteBuffer.wrap(Vectors.golden)), kit)
        val prediction = Prediction(golden.simulation, kit.input.frames, kit.input.frameSize)
        assertEquals(2, prediction.cameras().size)
        val pixels = kit.input.frames * kit.input.frameSize.pixelCount
        assertEquals(3 * pixels, prediction.pointCloud(1.0).size)
        assertTrue(prediction.pointCloud().size in 3 * pixels / 2..3 * pixels / 2 + 3)
        val none = Prediction(emptyMap(), kit.input.frames, kit.input.frameSize)
        assertRefused(KitException.Kind.WRONG_INPUT) { none.cameras() }
        assertRefused(KitException.Kind.WRONG_INPUT) { none.pointCloud() }
    }
}
