package io.vggtedge

import java.io.File
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.suspendCancellableCoroutine
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** Loads models on one thread of its own: one at a time in the whole process. */
internal object ModelLoader {
    private const val METHOD = "forward"
    private val executor = ownThread("vggt-edge loader")

    /** For what else takes long and computes no prediction. */
    val dispatcher = executor.asCoroutineDispatcher()

    /** A load that is cancelled stops at the next part of a file, and closes what it has opened. */
    suspend fun load(folder: File, threads: Int, progress: LoadProgress?): VGGTModel =
        suspendCancellableCoroutine { continuation ->
            val task = Runnable {
                val result = runCatching {
                    fromFolder(folder, threads, progress) { if (!continuation.isActive) throw CancellationException() }
                }
                result
                    .onSuccess { model -> continuation.resume(model) { _, unused, _ -> unused.close() } }
                    .onFailure(continuation::resumeWithException)
            }
            executor.execute(task)
            continuation.invokeOnCancellation { executor.remove(task) }
        }

    private fun fromFolder(folder: File, threads: Int, progress: LoadProgress?, checkActive: () -> Unit): VGGTModel {
        RuntimeThreads.check(threads)
        checkActive()
        val kit = Kit.read(folder)
        checkDevice()
        checkWeights(kit)
        val whole = maxOf(1L, File(folder, kit.model.program).length())
        var hashed = 0L
        kit.checkModel(folder) { count ->
            checkActive()
            hashed += count
            progress?.onProgress(minOf(1.0, hashed.toDouble() / whole))
        }
        return opened(kit, File(folder, kit.model.program), threads, checkActive)
    }

    private fun opened(kit: Kit, file: File, asked: Int, checkActive: () -> Unit): VGGTModel {
        checkActive()
        val threads = RuntimeThreads.take(asked)
        var module: Module? = null
        try {
            val program = executing("load") {
                val input = Tensor.allocateFloatBuffer(kit.input.shape.fold(1L, Long::times).toInt())
                val opened = Module.load(file.absolutePath, Module.LOAD_MODE_MMAP, threads).also { module = it }
                // Packs the weights, and says what the delegates have against the program.
                opened.loadMethod(METHOD)
                ModelProgram(kit, opened, input)
            }
            checkActive()
            return VGGTModel(kit, threads, program)
        } catch (error: Throwable) {
            module?.destroy()
            RuntimeThreads.giveBack()
            throw error
        }
    }

    private fun checkWeights(kit: Kit) {
        val weights = kit.model.weights ?: return
        throw unsupported(
            "Module of ExecuTorch 1.4 for Android takes no weights beside the program, such as $weights",
            "export with the weights inside the program, or load both with the C++ Module",
        )
    }
}
