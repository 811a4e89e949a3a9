package io.vggtedge

import java.io.File
import java.nio.ByteBuffer
import java.nio.file.Files
import org.json.JSONObject
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class KitTest {
    private val folder: File = Files.createTempDirectory("kit").toFile()

    @After
    fun removeFolder() {
        folder.deleteRecursively()
    }

    private fun changed(change: (JSONObject) -> Unit): String = JSONObject(Vectors.kit).also(change).toString()

    @Test
    fun readsWhatTheExporterWrites() {
        File(folder, Kit.FILE_NAME).writeText(Vectors.kit)
        val kit = Kit.read(folder)
        assertEquals("vggt.pte", kit.model.program)
        assertNull(kit.model.weights)
        assertEquals(4096L, kit.model.plannedBytes)
        assertEquals(FrameSize(28, 14), kit.input.frameSize)
        assertEquals(listOf(1L, 2L, 3L, 14L, 28L), kit.input.shape.toList())
        assertEquals(listOf("pose_enc", "depth", "depth_conf"), kit.outputs.map { it.name })
        assertEquals(Kit.Block("frame_blocks.0", "w4a8d"), kit.blocks.first())
        assertEquals(30.0, kit.tolerances.backendSqnrDbMin)
        assertEquals("golden.safetensors", kit.golden?.file)
    }

    @Test
    fun aMissingKit() {
        assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
    }

    @Test
    fun otherVersionsAreRefused() {
        val newer = changed { it.put("schema_version", 2).remove("model") }
        assertRefused(KitException.Kind.UNSUPPORTED) { Kit.parse(newer) }
    }

    @Test
    fun hostileKitsAreRefused() {
        val changes = listOf<(JSONObject) -> Unit>(
            { it.put("schema_version", "1") },
            { it.put("schema_version", 1.5) },
            { it.remove("target") },
            { it.put("model", JSONObject.NULL) },
            { it.getJSONObject("model").put("program", "../vggt.pte") },
            { it.getJSONObject("model").put("program", "..") },
            { it.getJSONObject("model").put("sha256", "none") },
            { it.getJSONObject("model").put("weights", "vggt.ptd") },
            { it.getJSONObject("model").put("weights", "a/b").put("weights_sha256", "0".repeat(64)) },
            { it.getJSONObject("model").put("memory", JSONObject()) },
            { it.getJSONObject("input").put("frames", 0) },
            { it.getJSONObject("input").put("frames", 4_000_000_000L) },
            { it.getJSONObject("input").put("height", 15) },
            { it.getJSONObject("input").put("width", 1 shl 20) },
            { it.getJSONObject("input").put("order", "NHWC") },
            { it.getJSONObject("input").put("dtype", "float16") },
            { it.getJSONArray("outputs").getJSONObject(0).put("name", "tracks") },
            { it.getJSONArray("outputs").getJSONObject(0).put("name", "depth") },
            { it.getJSONArray("outputs").getJSONObject(1).getJSONArray("shape").put(3, 14) },
            { it.put("outputs", org.json.JSONArray()) },
            { it.getJSONObject("tolerances").put("backend_sqnr_db_min", "30") },
            { it.getJSONObject("golden").put("file", "/etc/hosts") },
        )
        for ((index, change) in changes.withIndex()) {
            val error = assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(changed(change)) }
            assertTrue("$index: ${error.what}", error.what.startsWith("kit.json cannot be used"))
        }
        val nested = "{\"a\":" + "[".repeat(200_000)
        for (text in listOf("", "[]", "nothing", nested)) {
            assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(text) }
        }
    }

    @Test
    fun notJudgedAndWithoutGoldenTensors() {
        val kit = Kit.parse(changed {
            it.getJSONObject("tolerances").put("backend_sqnr_db_min", JSONObject.NULL)
            it.put("golden", JSONObject.NULL)
        })
        assertNull(kit.tolerances.backendSqnrDbMin)
        assertRefused(KitException.Kind.DAMAGED_FILE) { GoldenTensors.read(kit, folder) }
    }

    @Test
    fun aModelOfAnotherKitIsRefused() {
        val kit = Kit.parse(Vectors.kit)
        val program = File(folder, "vggt.pte")
        assertRefused(KitException.Kind.DAMAGED_FILE) { kit.checkModel(folder) }
        program.writeText("another")
        assertRefused(KitException.Kind.DAMAGED_FILE) { kit.checkModel(folder) }
        program.writeText("program")
        kit.checkModel(folder)
        val withWeights = Kit.parse(changed {
            it.getJSONObject("model").put("weights", "vggt.ptd").put("weights_sha256", kit.model.sha256)
        })
        File(folder, "vggt.ptd").writeText("weights")
        val error = assertRefused(KitException.Kind.DAMAGED_FILE) { withWeights.checkModel(folder) }
        assertTrue(error.what.startsWith("vggt.ptd"))
    }

    @Test
    fun goldenTensors() {
        val kit = Kit.parse(Vectors.kit)
        val file = File(folder, "golden.safetensors")
        file.writeBytes(Vectors.golden)
        val golden = GoldenTensors.read(kit, folder)
        assertEquals(kit.input.shape.toList(), golden.images.shape)
        assertEquals(kit.outputs.map { it.name }.toSet(), golden.simulation.keys)
        assertEquals(golden.simulation.keys, golden.fp32.keys)
        file.writeBytes(Vectors.golden.also { it[it.size - 1] = 0 })
        assertRefused(KitException.Kind.DAMAGED_FILE) { GoldenTensors.read(kit, folder) }
    }

    @Test
    fun goldenTensorsOfAnotherShape() {
        val kit = Kit.parse(Vectors.kit)
        val file = SafetensorsFile(ByteBuffer.wrap(Vectors.golden))
        val smaller = Kit.parse(changed {
            it.getJSONObject("input").put("width", 14)
            for (index in 1..2) it.getJSONArray("outputs").getJSONObject(index).getJSONArray("shape").put(3, 14)
        })
        assertEquals(3, GoldenTensors.of(file, kit).simulation.size)
        assertRefused(KitException.Kind.DAMAGED_FILE) { GoldenTensors.of(file, smaller) }
    }

    @Test
    fun safetensors() {
        for (case in Vectors.cases("safetensors")) {
            val data = ByteBuffer.wrap(case.bytes("file"))
            if (!case.has("values")) {
                assertRefused(KitException.Kind.DAMAGED_FILE) { SafetensorsFile(data).tensor("t") }
                continue
            }
            val tensor = SafetensorsFile(data).tensor("t")
            assertEquals(case.getJSONArray("shape").ints().map { it.toLong() }, tensor.shape)
            assertArrayEquals(case.getString("name"), case.floats("values"), tensor.values, 0f)
        }
        val plain = SafetensorsFile(ByteBuffer.wrap(Vectors.cases("safetensors").first().bytes("file")))
        assertRefused(KitException.Kind.DAMAGED_FILE) { plain.tensor("u") }
    }

    @Test
    fun missingSafetensors() {
        assertRefused(KitException.Kind.DAMAGED_FILE) { SafetensorsFile.open(File(folder, "none")) }
    }
}
