package io.vggtedge

import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.CancellableContinuation
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.suspendCancellableCoroutine

/** A thread of the kit's own, which ends when it has nothing to do: none of the app's is held. */
internal fun ownThread(name: String): ThreadPoolExecutor {
    val executor =
        ThreadPoolExecutor(1, 1, 5, TimeUnit.SECONDS, LinkedBlockingQueue()) { task ->
            Thread(task, name).also { it.isDaemon = true }
        }
    executor.allowCoreThreadTimeOut(true)
    return executor
}

/** Runs the predictions of one model, one after another. [free] gives its memory back, after the last one. */
internal class ModelWorker(private val program: ModelProgram, private val free: () -> Unit) {
    private val executor = ownThread("vggt-edge model")
    private val unfinished = AtomicInteger()
    private val freed = CompletableDeferred<Unit>()
    private var isClosed = false
    private var replaceable: Task<*>? = null

    /** Whether a prediction runs or waits. */
    val isBusy: Boolean get() = unfinished.get() > 0

    /** Waits for its turn. A caller that is cancelled goes at once; what has not begun never does. */
    suspend fun <T> run(action: (ModelProgram) -> T): T = suspendCancellableCoroutine { submit(Task(it, action)) }

    /** As [run], but only the latest of these waits: the one that waited before gets null. */
    suspend fun <T : Any> runLatest(action: (ModelProgram) -> T): T? = suspendCancellableCoroutine { continuation ->
        submit(Task<T?>(continuation, action), isReplaceable = true)
    }

    private fun <T> submit(task: Task<T>, isReplaceable: Boolean = false) {
        var replaced: Task<*>? = null
        val isRefused =
            synchronized(this) {
                if (!isClosed) {
                    if (isReplaceable) {
                        replaced = replaceable?.takeIf { executor.remove(it) }
                        replaceable = task
                    }
                    unfinished.incrementAndGet()
                    executor.execute(task)
                }
                isClosed
            }
        if (isRefused) task.refuse()
        replaced?.let { it.skip() }
        task.continuation.invokeOnCancellation { if (executor.remove(task)) unfinished.decrementAndGet() }
    }

    /** Returns at once: what waits is refused, what runs runs to its end, then the memory is free. */
    fun close() {
        val waiting = ArrayList<Runnable>()
        synchronized(this) {
            if (isClosed) return
            isClosed = true
            replaceable = null
            executor.queue.drainTo(waiting)
            executor.execute {
                free()
                freed.complete(Unit)
            }
            executor.shutdown()
        }
        for (task in waiting.filterIsInstance<Task<*>>()) {
            unfinished.decrementAndGet()
            task.refuse()
        }
    }

    /** Returns when the memory is free. */
    suspend fun awaitFreed() {
        freed.await()
    }

    private inner class Task<T>(
        val continuation: CancellableContinuation<T>,
        private val action: (ModelProgram) -> T,
    ) : Runnable {
        override fun run() {
            val result = if (continuation.isActive) runCatching { action(program) } else null
            unfinished.decrementAndGet()
            if (result != null) continuation.resumeWith(result)
        }

        fun refuse() {
            continuation.resumeWithException(wrongInput("this model is closed", "load it again"))
        }

        /** A newer task took its place. Only tasks whose result may be null are replaced. */
        @Suppress("UNCHECKED_CAST")
        fun skip() {
            unfinished.decrementAndGet()
            continuation.resumeWith(Result.success(null as T))
        }
    }
}
