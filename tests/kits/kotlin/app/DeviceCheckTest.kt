package io.vggtedge

import android.os.PowerManager
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pytorch.executorch.Script

/** "Passed" means that something was judged. */
internal class DeviceCheckTest : WithKit() {
    private fun check(runs: Int = 3, warmUp: Int = 1) =
        runBlocking { DeviceCheck(app, folder, warmUpRuns = warmUp, measuredRuns = runs).run() }

    @Test
    fun theSimulationItselfPasses() {
        assertTrue(check().passed)
    }

    @Test
    fun withoutALimitNothingPasses() {
        changeKit("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": null")
        Script.forward = { _, _ -> answer { _, values -> values.also { it.fill(0f) } } }
        assertFalse(check().passed)
    }

    @Test
    fun limitsThatMeanNothingAreRefused() {
        for (limit in listOf("-300", "0", "201", "1e300")) {
            writeKit()
            changeKit("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": $limit")
            assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
        }
        writeKit()
        changeKit("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db\": 30.0")
        assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
    }

    /** The prediction with this number, from 0 on, answers otherwise. */
    private fun spoil(number: Int, change: (FloatArray) -> Unit) {
        val runs = AtomicInteger()
        Script.forward = { _, _ ->
            val isSpoiled = runs.getAndIncrement() == number
            answer { name, values -> if (isSpoiled && name == "depth") values.also(change) else values }
        }
    }

    @Test
    fun everyPredictionCounts() {
        for (number in 0 until 6) {
            spoil(number) { it[3] = Float.NaN }
            assertFalse("NaN in prediction $number", check(runs = 4).passed)
            spoil(number) { it.fill(0f) }
            assertFalse("zeros in prediction $number", check(runs = 4).passed)
        }
        spoil(6) { it[3] = Float.NaN }
        assertTrue(check(runs = 4).passed)
    }

    @Test
    fun exchangedOutputsFail() {
        Script.forward = { _, _ -> answer().also { it[1] = answer()[2] } }
        assertFalse(check().passed)
    }

    @Test
    fun theCallersThreadStaysFree() {
        val main = Executors.newSingleThreadExecutor { Thread(it, "main") }.asCoroutineDispatcher()
        val gate = Gate()
        Script.forward = { _, _ ->
            gate.pass()
            answer()
        }
        val worked = runBlocking {
            val job = launch(main) { DeviceCheck(app, folder, warmUpRuns = 0, measuredRuns = 1).run() }
            gate.awaitReached()
            val free = thrown { withTimeout(PATIENCE_MS) { withContext(main) {} } }
            gate.open()
            job.join()
            free
        }
        main.close()
        assertNull("$worked", worked)
    }

    @Test
    fun numbersOfRunsAreCheckedFirst() {
        assertRefused(KitException.Kind.WRONG_INPUT) { DeviceCheck(app, folder, measuredRuns = 0) }
        assertRefused(KitException.Kind.WRONG_INPUT) { DeviceCheck(app, folder, warmUpRuns = -1) }
        assertRefused(KitException.Kind.WRONG_INPUT) { DeviceCheck(app, folder, threads = -5) }
        assertEquals(0, Script.opened.get())
    }

    @Test
    fun heatIsLookedAtBeforeAndAfter() {
        Script.forward = { _, _ ->
            PowerManager.thermalStatus = PowerManager.THERMAL_STATUS_SEVERE
            answer()
        }
        val json = JsonReader(check().toJson()).value() as JsonTable
        assertEquals("none", json.table("thermal").text("before"))
        assertEquals("severe", json.table("thermal").text("after"))
    }

    /** Each key of docs/how-to/kit-result.md that this kit has. */
    @Test
    fun resultsHaveTheSharedKeys() {
        spoil(2) { it[3] += 1e-6f }
        val json = JsonReader(check().toJson()).value() as JsonTable
        assertEquals("passed", json.text("status"))
        assertEquals("executorch-android", json.table("runtime").text("name"))
        assertTrue(json.int("threads") >= 1)
        assertEquals(1, json.int("runs_unlike_first"))
        val times = json.table("timings_ms")
        assertTrue((times.numberOrNull("load") ?: 0.0) > 0 && (times.numberOrNull("first_prediction") ?: 0.0) > 0)
        assertEquals(3, times.table("measured").int("count"))
        assertEquals("VmHWM", json.table("memory_bytes").text("how"))
        assertTrue((json.table("memory_bytes").numberOrNull("value") ?: 0.0) > 0)
        val output = json.tables("outputs").first()
        assertEquals(0.0, output.table("pose").numberOrNull("rotation_degrees") ?: 1.0, 1e-5)
        assertNull(output.numberOrNull("pose_degrees_max"))
    }

    /** Judging takes seconds for large outputs: it is no work for the thread that asked. */
    @Test
    fun judgingIsDoneOnTheKitsThread() {
        val threads = mutableSetOf<String>()
        Script.forward = { _, _ ->
            threads += Thread.currentThread().name
            answer()
        }
        assertTrue(check().passed)
        assertEquals(setOf("vggt-edge model"), threads)
    }
}
