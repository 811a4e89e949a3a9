package io.vggtedge

import android.content.res.AssetManager
import android.os.Bundle
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import java.io.File
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

/**
 * Replays the golden tensors on this device. Arguments of the instrumentation:
 *
 * - `folder`: holds `kit.json`, the program and the golden tensors; default `/data/local/tmp/vggt-edge`. Where there
 *   is no `kit.json` in it, the assets in `kit` of the test's own APK are copied out and used.
 * - `runs`: predictions that are measured; default 20. `threads`: default ExecuTorch's own choice.
 */
@RunWith(AndroidJUnit4::class)
class ModelOnDeviceTest {
    private val instrumentation = InstrumentationRegistry.getInstrumentation()
    private val arguments: Bundle = InstrumentationRegistry.getArguments()

    @Test
    fun goldenTensorsAreReproduced() {
        val context = instrumentation.targetContext
        val runs = number("runs", 20)
        val check = DeviceCheck(context, kitFolder(), threads = number("threads", 0), measuredRuns = runs)
        val result = runBlocking { check.run() }
        val json = result.toJson()
        // Gradle fetches what lies there; without Gradle it stays in the app's files.
        val output = arguments.getString("additionalTestOutputDir")?.let(::File) ?: context.filesDir
        output.mkdirs()
        File(output, "result.json").writeText(json)
        assertTrue(result.failures, result.passed)
    }

    private fun number(name: String, default: Int): Int = arguments.getString(name)?.toInt() ?: default

    private fun kitFolder(): File {
        val folder = File(arguments.getString("folder") ?: "/data/local/tmp/vggt-edge")
        if (File(folder, Kit.FILE_NAME).canRead()) return folder
        val assets: AssetManager = instrumentation.context.assets
        assertTrue("neither $folder nor the assets hold a kit", Kit.FILE_NAME in assets.list("kit").orEmpty())
        val context = instrumentation.targetContext
        val installer = KitInstaller(context, File(context.cacheDir, "kit"), withGolden = true)
        return runBlocking { installer.install(KitSource.assets(assets, "kit")) }
    }
}
