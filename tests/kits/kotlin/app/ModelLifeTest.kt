package io.vggtedge

import java.io.IOException
import java.nio.FloatBuffer
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Script
import org.pytorch.executorch.Scripted
import org.pytorch.executorch.Tensor

/** A model in the life of an app: everything that happens while something else is under way. */
internal class ModelLifeTest : WithKit() {
    private val seen = CopyOnWriteArrayList<Float>()

    /** The first prediction waits at the gate; all note the first value that they were given. */
    private fun holdTheFirst(gate: Gate) {
        val runs = AtomicInteger()
        Script.forward = { _, values: FloatBuffer ->
            seen += values.get(0)
            if (runs.getAndIncrement() == 0) gate.pass()
            answer()
        }
    }

    private fun predictTwice(gate: Gate, change: () -> Unit, second: suspend (VGGTModel) -> Prediction) = runBlocking {
        holdTheFirst(gate)
        VGGTModel.load(folder).use { model ->
            val first = async(Dispatchers.IO) { model.predict(listOf(frame(51), frame(51))) }
            gate.awaitReached()
            val waiting = async(Dispatchers.IO, CoroutineStart.UNDISPATCHED) { second(model) }
            change()
            gate.open()
            first.await()
            waiting.await()
        }
        Unit
    }

    @Test
    fun aListIsTakenWhenTheCallIsMade() {
        val frames = mutableListOf(frame(102), frame(102))
        predictTwice(Gate(), { frames.clear() }) { it.predict(frames) }
        assertEquals(listOf(0.2f, 0.4f), seen)
        seen.clear()
        frames += listOf(frame(102), frame(102))
        predictTwice(Gate(), { frames += frame(0) }) { it.predict(frames) }
        assertEquals(listOf(0.2f, 0.4f), seen)
    }

    @Test
    fun anArrayIsTakenWhenTheCallIsMade() {
        val values = FloatArray(VALUES) { 0.25f }
        predictTwice(Gate(), { values.fill(0.75f) }) { it.predict(values) }
        assertEquals(listOf(0.2f, 0.25f), seen)
    }

    @Test
    fun aCancelledLoadLeavesNothingBehind() = runBlocking {
        val gate = Gate()
        Script.open = { _, _ ->
            gate.pass()
            Scripted()
        }
        val loading = launch(Dispatchers.IO) { VGGTModel.load(folder) }
        gate.awaitReached()
        loading.cancel()
        gate.open()
        loading.join()
        eventually("the module is freed") { Script.opened.get() == 1 && Script.destroyed.get() == 1 }
    }

    @Test
    fun closingReturnsAtOnceAndFreesAfterTheRun() = runBlocking {
        val gate = Gate()
        holdTheFirst(gate)
        val model = VGGTModel.load(folder)
        val running = async(Dispatchers.IO) { model.predict(listOf(frame(51), frame(51))) }
        gate.awaitReached()
        val closing = launch(Dispatchers.IO) { model.close() }
        val isClosed = thrown { withTimeout(PATIENCE_MS) { closing.join() } }
        val freed = Script.destroyed.get()
        gate.open()
        assertNull("close waited for the prediction", isClosed)
        assertEquals(0, freed)
        assertEquals(2, running.await().frames)
        eventually("the module is freed") { Script.destroyed.get() == 1 }
        val error = thrown { model.predict(listOf(frame(51), frame(51))) }
        assertKitError(KitException.Kind.WRONG_INPUT, error)
        Unit
    }

    @Test
    fun cancelledPredictionsThatWaitNeverRun() = runBlocking {
        val gate = Gate()
        holdTheFirst(gate)
        VGGTModel.load(folder).use { model ->
            val first = launch(Dispatchers.IO) { model.predict(listOf(frame(51), frame(51))) }
            gate.awaitReached()
            val waiting = List(6) { launch(Dispatchers.IO) { model.predict(listOf(frame(0), frame(0))) } }
            waiting.forEach { it.cancelAndJoin() }
            gate.open()
            first.join()
            model.predict(listOf(frame(255), frame(255)))
        }
        assertEquals(listOf(0.2f, 1f), seen)
    }

    @Test
    fun aCancelledPredictionThatRunsReleasesItsCallerAtOnce() = runBlocking {
        val gate = Gate()
        holdTheFirst(gate)
        val model = VGGTModel.load(folder)
        val first = async(Dispatchers.IO) { thrown { model.predict(listOf(frame(51), frame(51))) } }
        gate.awaitReached()
        first.cancel()
        val late = thrown { withTimeout(PATIENCE_MS) { first.join() } }
        gate.open()
        assertNull("$late", late)
        model.close()
    }

    /** Two models on a machine with two cores, both busy: the app's own coroutines run on. */
    @Test
    fun noThreadOfTheAppIsHeld() = runBlocking {
        val cores = Runtime.getRuntime().availableProcessors()
        val started = CountDownLatch(cores)
        val gate = Gate()
        Script.forward = { _, _ ->
            started.countDown()
            gate.pass()
            answer()
        }
        val models = List(cores) { VGGTModel.load(folder) }
        val jobs = models.map { model -> launch(Dispatchers.IO) { model.predict(listOf(frame(51), frame(51))) } }
        assertTrue(started.await(SECONDS, TimeUnit.SECONDS))
        val own = launch(Dispatchers.Default) { seen += 1f }
        val late = thrown { withTimeout(PATIENCE_MS) { own.join() } }
        gate.open()
        jobs.joinAll()
        models.forEach { it.close() }
        assertNull("$late", late)
    }

    @Test
    fun whateverTheRuntimeThrowsIsAKitException() = runBlocking {
        class CppException : Exception("std::bad_alloc")
        val failures = listOf(
            UnsatisfiedLinkError("libexecutorch.so"), NoClassDefFoundError("org/pytorch/executorch/Module"),
            ExceptionInInitializerError(UnsatisfiedLinkError("libfbjni.so")), OutOfMemoryError("std::bad_alloc"),
            IOException("mmap"), CppException(), ExecutorchRuntimeException(0x20, "no backend"),
        )
        for (failure in failures) {
            Script.open = { _, _ -> throw failure }
            assertKitError(KitException.Kind.MODEL_FAILED, thrown { VGGTModel.load(folder).close() })
            Script.open = { _, _ -> Scripted() }
            Script.forward = { _, _ -> throw failure }
            VGGTModel.load(folder).use { model ->
                val error = thrown { model.predict(listOf(frame(51), frame(51))) }
                assertKitError(KitException.Kind.MODEL_FAILED, error)
                Script.forward = { _, _ -> answer() }
                assertEquals(2, model.predict(listOf(frame(51), frame(51))).frames)
            }
        }
        eventually("all are freed") { Script.opened.get() == Script.destroyed.get() }
    }

    @Test
    fun loadingLoadsTheMethod() = runBlocking {
        Script.onLoadMethod = { 0x30 }
        val error = assertKitError(KitException.Kind.MODEL_FAILED, thrown { VGGTModel.load(folder).close() })
        assertTrue(error.what, "0x30" in error.what)
        eventually("the module is freed") { Script.destroyed.get() == 1 }
    }

    /** The runtime has one pool of threads: another count would end every open model. */
    @Test
    fun threadsAreThoseOfTheProcess() = runBlocking {
        val asked = CopyOnWriteArrayList<Int>()
        Script.open = { _, threads ->
            asked += threads
            Scripted()
        }
        for (threads in listOf(-5, 1000, 100_000)) {
            assertKitError(KitException.Kind.WRONG_INPUT, thrown { VGGTModel.load(folder, threads).close() })
        }
        assertEquals(emptyList<Int>(), asked)
        val first = VGGTModel.load(folder, 1)
        assertKitError(KitException.Kind.WRONG_INPUT, thrown { VGGTModel.load(folder, 2).close() })
        val check = DeviceCheck(app, folder, warmUpRuns = 0, measuredRuns = 1).run()
        assertEquals(1, check.threads)
        VGGTModel.load(folder, 1).closeAndJoin()
        first.closeAndJoin()
        eventually("all are freed") { Script.opened.get() == Script.destroyed.get() }
        Thread.sleep(100)
        VGGTModel.load(folder, 2).closeAndJoin()
        assertEquals(listOf(1, 1, 1, 2), asked)
    }

    @Test
    fun inputsThatAreNoPictureAreRefused() = runBlocking {
        VGGTModel.load(folder).use { model ->
            for (value in listOf(Float.NaN, Float.POSITIVE_INFINITY, 255f, -0.1f)) {
                val values = FloatArray(VALUES) { 0.5f }.also { it[7] = value }
                assertKitError(KitException.Kind.WRONG_INPUT, thrown { model.predict(values) })
            }
        }
    }

    @Test
    fun outputsThatCannotBeRightAreRefused() = runBlocking {
        val shape = longArrayOf(1, 2, 14, 28)
        val half = EValue.from(Tensor.ofHalves(FloatArray(2 * 14 * 28) { 2f }, shape))
        val answers = listOf(
            answer { name, values -> if (name == "depth") values.also { it[5] = Float.NaN } else values },
            answer { name, values -> if (name == "depth_conf") values.also { it.fill(0.5f) } else values },
            answer { name, values -> if (name == "depth") values.also { it.fill(-1f) } else values },
            answer().also { it[1] = half },
            answer().also { it[1] = EValue.optionalNone() },
            answer().sliceArray(0..1),
        )
        VGGTModel.load(folder).use { model ->
            for ((index, answer) in answers.withIndex()) {
                Script.forward = { _, _ -> answer }
                val error = thrown { model.predict(listOf(frame(51), frame(51))) }
                val kind = if (index < 3) KitException.Kind.UNUSABLE_OUTPUT else KitException.Kind.MODEL_FAILED
                assertKitError(kind, error)
            }
        }
    }
}
