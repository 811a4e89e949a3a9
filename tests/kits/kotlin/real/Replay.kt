package io.vggtedge

import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.async
import kotlinx.coroutines.runBlocking
import org.pytorch.executorch.Script
import org.pytorch.executorch.WheelProgram

/**
 * The golden replay of an export, by the kit's own code on the real runtime: `Replay FOLDER RESULT`.
 *
 * Then what an app does: two models at once, closed and loaded again, give the same bits.
 */
internal fun main(arguments: Array<String>) {
    Script.open = ::WheelProgram
    val folder = File(arguments[0])
    val result = runBlocking { DeviceCheck(App(folder), folder, measuredRuns = 5).run() }
    File(arguments[1]).writeText(result.toJson())
    println("${result.verdict} on ${result.threads} thread(s), load ${result.times.loadMs.toInt()} ms, " +
        "first prediction ${result.times.firstPredictionMs.toInt()} ms")
    for (output in result.outputs) println(output.summary)
    val areEqual = runBlocking { predictionsAgree(folder) }
    println("two models at once, and one loaded again: ${if (areEqual) "the same bits" else "other bits"}")
    exitProcess(if (result.passed && areEqual) 0 else 1)
}

private suspend fun predictionsAgree(folder: File): Boolean {
    val kit = Kit.read(folder)
    val images = GoldenTensors.read(kit, folder).images().values
    val models = List(2) { VGGTModel.load(folder) }
    val predictions = runBlocking { models.map { async { it.predict(images) } }.map { it.await() } }.toMutableList()
    models.forEach { it.closeAndJoin() }
    VGGTModel.load(folder).use { predictions += it.predict(images) }
    return kit.outputs.all { output ->
        val values = predictions.map { it.outputs.getValue(output.name).values }
        values.all { it.contentEquals(values.first()) }
    }
}
