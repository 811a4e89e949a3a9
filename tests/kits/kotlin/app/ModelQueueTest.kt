package io.vggtedge

import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.TimeUnit
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Script
import org.pytorch.executorch.Scripted

/** Back pressure, progress, waiting for the end, and what Java callers get. */
internal class ModelQueueTest : WithKit() {
    private fun frames(level: Int) = listOf(frame(level), frame(level))

    @Test
    fun theLatestFramesWin() = runBlocking {
        val gate = Gate()
        val seen = CopyOnWriteArrayList<Float>()
        Script.forward = { _, values ->
            seen += values.get(0)
            if (seen.size == 1) gate.pass()
            answer()
        }
        VGGTModel.load(folder).use { model ->
            assertFalse(model.isBusy)
            val running = async(Dispatchers.IO) { model.predictLatest(frames(51)) }
            gate.awaitReached()
            assertTrue(model.isBusy)
            val waiting = List(4) { index ->
                val later = frames(102 + 51 * index)
                async(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) { model.predictLatest(later) }
            }
            waiting.take(3).forEach { assertNull(it.await()) }
            gate.open()
            assertNotNull(running.await())
            assertNotNull(waiting.last().await())
            eventually("nothing is left to do") { !model.isBusy }
        }
        assertEquals(listOf(0.2f, 1f), seen)
    }

    @Test
    fun closingRefusesWhatWaits() = runBlocking {
        val gate = Gate()
        Script.forward = { _, _ ->
            gate.pass()
            answer()
        }
        val model = VGGTModel.load(folder)
        val running = async(Dispatchers.IO) { model.predict(frames(51)) }
        gate.awaitReached()
        val waiting = async(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            thrown { model.predict(frames(51)) }
        }
        model.close()
        model.close()
        assertKitError(KitException.Kind.WRONG_INPUT, waiting.await())
        assertEquals(0, Script.destroyed.get())
        gate.open()
        model.closeAndJoin()
        assertEquals(1, Script.destroyed.get())
        assertEquals(2, running.await().frames)
    }

    @Test
    fun loadingTellsHowFarItIs() = runBlocking {
        val shares = CopyOnWriteArrayList<Double>()
        VGGTModel.load(folder, progress = { shares += it }).closeAndJoin()
        assertEquals(1.0, shares.last(), 0.0)
    }

    @Test
    fun aLoadIsCancelledWhileItReads() = runBlocking {
        val gate = Gate()
        val loading = launch(Dispatchers.IO) { VGGTModel.load(folder, progress = { gate.pass() }) }
        gate.awaitReached()
        loading.cancelAndJoin()
        gate.open()
        VGGTModel.load(folder).closeAndJoin() // the next one waits for the loader's thread
        assertEquals(1, Script.opened.get())
    }

    @Test
    fun oneLoadAtATime() = runBlocking {
        val gate = Gate()
        val open = CopyOnWriteArrayList<String>()
        Script.open = { _, _ ->
            open += "begin"
            gate.pass()
            open += "end"
            Scripted()
        }
        val loads = List(4) { async(Dispatchers.IO) { VGGTModel.load(folder) } }
        gate.awaitReached()
        Thread.sleep(100)
        assertEquals(listOf("begin"), open)
        gate.open()
        loads.forEach { it.await().closeAndJoin() }
        assertEquals(List(4) { listOf("begin", "end") }.flatten(), open)
    }

    /** The code that says something stands in the text of the one that hides it. */
    @Test
    fun codesOfTheRuntimeAreProperties() = runBlocking {
        val cases = mapOf(
            ExecutorchRuntimeException(0x12, "No module [Native Error: 0x23]" + "log ".repeat(500)) to 0x23,
            ExecutorchRuntimeException(0x30, "Failed to load method: forward") to 0x30,
            IllegalStateException("Module has been destroyed") to null,
        )
        for ((failure, code) in cases) {
            Script.open = { _, _ -> throw failure }
            val error = assertKitError(KitException.Kind.MODEL_FAILED, thrown { VGGTModel.load(folder).close() })
            assertEquals(code, error.runtimeCode)
            assertTrue(error.what.length < 400)
        }
        Script.open = { _, _ -> Scripted() }
        Script.forward = { _, _ -> throw ExecutorchRuntimeException(0x01, "Execution failed for method: forward") }
        val model = VGGTModel.load(folder)
        val error = assertKitError(KitException.Kind.MODEL_FAILED, thrown { model.predict(frames(51)) })
        assertEquals(0x01, error.runtimeCode)
        assertTrue(error.remedy, "memory" in error.remedy)
        model.closeAndJoin()
    }

    @Test
    fun devicesThatWouldDieAreRefused() {
        fun core(features: String) = "processor\t: 0\nFeatures\t: fp asimd $features\nCPU part\t: 0xd03\n"
        val a53 = core("aes crc32")
        val a76 = core("aes atomics asimddp")
        assertEquals(listOf("asimddp", "atomics"), missingFeatures(a53))
        assertEquals(emptyList<String>(), missingFeatures(a76))
        assertEquals(listOf("asimddp", "atomics"), missingFeatures(a76 + a53))
        assertEquals(emptyList<String>(), missingFeatures("nothing is said"))
        checkDevice { a76 }
        checkDevice { null }
        assertRefused(KitException.Kind.UNSUPPORTED) { checkDevice { a53 } }
        android.os.Process.standInIs64Bit = false
        try {
            assertRefused(KitException.Kind.UNSUPPORTED) { checkDevice { a76 } }
        } finally {
            android.os.Process.standInIs64Bit = true
        }
    }

    @Test
    fun aMissingProgramIsNamed() = runBlocking {
        java.io.File(folder, "vggt.pte").delete()
        val error = assertKitError(KitException.Kind.DAMAGED_FILE, thrown { VGGTModel.load(folder).close() })
        assertTrue(error.what, "vggt.pte" in error.what)
        assertEquals(0, Script.opened.get())
    }

    @Test
    fun javaCallers() {
        assertEquals("passed", JavaCaller.use(app, folder, frames(51)))
        assertEquals("WRONG_INPUT", JavaCaller.wrong(folder))
        eventually("all are freed") { Script.opened.get() == Script.destroyed.get() }
    }

    @Test
    fun aCancelledFutureClosesItsModel() {
        val gate = Gate()
        Script.open = { _, _ ->
            gate.pass()
            Scripted()
        }
        val future = VGGTModel.loadAsync(folder)
        gate.awaitReached()
        future.cancel(true)
        gate.open()
        eventually("the module is freed") { Script.opened.get() == 1 && Script.destroyed.get() == 1 }
        Script.open = { _, _ -> Scripted() }
        VGGTModel.loadAsync(folder).get(SECONDS, TimeUnit.SECONDS).close()
    }
}
