package io.vggtedge

import java.io.File
import java.nio.ByteBuffer
import java.nio.file.Files
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

    /** The kit with one part of its text exchanged. */
    private fun changed(from: String, to: String): String {
        assertTrue(from, from in Vectors.kit)
        return Vectors.kit.replaceFirst(from, to)
    }

    private fun without(key: String): String {
        val line = Regex("""^ *"$key": [^{\[]*?,?\n""", RegexOption.MULTILINE)
        assertTrue(key, line.containsMatchIn(Vectors.kit))
        return line.replaceFirst(Vectors.kit, "").replace(Regex(""",(\s*})"""), "$1")
    }

    @Test
    fun readsWhatTheExporterWrites() {
        File(folder, Kit.FILE_NAME).writeText(Vectors.kit)
        val kit = Kit.read(folder)
        assertEquals("vggt.pte", kit.model.program)
        assertNull(kit.model.weights)
        assertEquals(Kit.Memory(4096L, null, null), kit.model.memory)
        assertEquals(FrameSize(28, 14), kit.input.frameSize)
        assertEquals(listOf(1L, 2L, 3L, 14L, 28L), kit.input.shape.toList())
        assertEquals(listOf("pose_enc", "depth", "depth_conf"), kit.outputs.map { it.name })
        assertEquals(Kit.Block("frame_blocks.0", "w4a8d"), kit.blocks.first())
        assertEquals(30.0, kit.tolerances.backendSqnrDbMin)
        assertNull(kit.tolerances.poseDegreesMax)
        assertEquals("golden.safetensors", kit.golden?.file)
    }

    @Test
    fun kitsOfEarlierVersionsHaveNoLimitForAngles() {
        assertNull(Kit.parse(without("pose_degrees_max")).tolerances.poseDegreesMax)
        val limited = changed("\"pose_degrees_max\": null", "\"pose_degrees_max\": 3.5")
        assertEquals(3.5, Kit.parse(limited).tolerances.poseDegreesMax)
    }

    @Test
    fun theRuleForPicturesAndPointsIsRead() {
        val kit = Kit.parse(Vectors.kit)
        assertEquals(Preprocess.FIT to PixelCenters.HALF, kit.preprocess to kit.pixelCenters)
        val other = Kit.parse(changed("\"fit\"", "\"pad\"").replace("\"half\"", "\"integer\""))
        assertEquals(Preprocess(Preprocess.Mode.PAD) to PixelCenters.INTEGER, other.preprocess to other.pixelCenters)
        val early = Kit.parse(changed("\"preprocess\"", "\"x\"").replace("\"pixel_centers\"", "\"y\""))
        assertEquals(Preprocess.FIT to PixelCenters.HALF, early.preprocess to early.pixelCenters)
        assertEquals(7, Kit.parse(changed("\"patch\": 14", "\"patch\": 7")).preprocess.patch)
        val sixteen = "\"patch\": 14" to "\"patch\": 16" // the input is 28 x 14
        val none = "\"patch\": 14" to "\"patch\": 0"
        for ((from, to) in listOf("\"fit\"" to "\"stretch\"", "\"half\"" to "3", none, sixteen)) {
            assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(changed(from, to)) }
        }
    }

    @Test
    fun whatTheExportMeasuredLiesBesideTheKit() {
        File(folder, Kit.FILE_NAME).writeText(Vectors.kit)
        val taken = measured("""{"load_bytes": 8192, "first_prediction_bytes": 65536}""")
        File(folder, Kit.MEASURED_FILE_NAME).writeText(taken)
        assertEquals(Kit.Memory(4096L, 8192L, 65536L), Kit.read(folder).model.memory)
    }

    /** Where the system told nothing, or the export went on from an earlier run. */
    @Test
    fun whatTheExportDidNotMeasureIsNull() {
        val empty = listOf("""{"checks": {}}""", """{"checks": {"executorch": {}}}""")
        val texts = listOf(measured("""{"load_bytes": 8192}""")) + empty
        val loads = texts.map { Kit.parse(Vectors.kit.toByteArray(), it.toByteArray()).model.memory.loadBytes }
        assertEquals(listOf(8192L, null, null), loads)
    }

    @Test
    fun measuredFilesThatSaySomethingElseAreRefused() {
        val runs = listOf("3", """{"load_bytes": "8 kB"}""", """{"load_bytes": -1}""")
        for (text in listOf("", "[]", "{}") + runs.map(::measured)) {
            assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(Vectors.kit.toByteArray(), text.toByteArray()) }
        }
    }

    private fun measured(run: String) = """{"checks": {"executorch": {"ExecuTorch run": $run}}, "timings": []}"""

    @Test
    fun aMissingKit() {
        assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
    }

    @Test
    fun otherVersionsAreRefused() {
        val newer = changed("\"schema_version\": 1", "\"schema_version\": 2").replace("model", "modell")
        assertRefused(KitException.Kind.UNSUPPORTED) { Kit.parse(newer) }
    }

    @Test
    fun hostileKitsAreRefused() {
        val hostile = listOf(
            changed("\"schema_version\": 1", "\"schema_version\": \"1\""),
            changed("\"schema_version\": 1", "\"schema_version\": 1.5"),
            changed("\"schema_version\": 1", "\"schema_version\": 1, \"schema_version\": 1"),
            without("target"), without("weights"), without("backend_sqnr_db_min"),
            changed("\"backend_sqnr_db_min\"", "\"backend_sqnr_db\": null, \"backend_sqnr_db_min\""),
            changed("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": \"30\""),
            changed("\"pose_degrees_max\": null", "\"pose_degrees_max\": 0"),
            changed("\"pose_degrees_max\": null", "\"pose_degrees_max\": 181"),
            changed("vggt.pte", "../vggt.pte"), changed("vggt.pte", ".."), changed("vggt.pte", ""),
            changed("vggt.pte", "a\\u0000b"), changed("vggt.pte", "a\\\\b"), changed("vggt.pte", "..\\u002Fb"),
            changed("\"weights\": null", "\"weights\": \"vggt.ptd\""),
            changed("\"planned_bytes\": 4096", "\"planned_bytes\": -5"),
            changed("\"planned_bytes\": 4096", "\"planned\": 4096"),
            changed("\"frames\": 2", "\"frames\": 0"), changed("\"frames\": 2", "\"frames\": 4000000000"),
            changed("\"height\": 14", "\"height\": 15"), changed("\"height\": 14", "\"height\": 014"),
            changed("\"width\": 28", "\"width\": 1048576"), changed("\"width\": 28", "\"width\": -28"),
            changed("NCHW", "NHWC"), changed("float32", "float16"),
            changed("\"pose_enc\"", "\"tracks\""), changed("\"pose_enc\"", "\"depth\""),
            changed("golden.safetensors", "/etc/hosts"),
            changed("\"height\": 14", "\"height\": 14 /* rows */"),
            Vectors.kit + "{}", "\uFEFF" + Vectors.kit, "", "[]", "nothing",
            "{\"a\":" + "[".repeat(200_000),
        )
        for ((index, text) in hostile.withIndex()) {
            val error = assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(text) }
            assertTrue("$index: ${error.what}", error.what.startsWith("kit.json cannot be used"))
            assertTrue("$index: ${error.what.length}", error.what.length < 300)
        }
    }

    /** Neither length nor content of a file leads to much memory. */
    @Test
    fun hugeKitsAreRefused() {
        val file = File(folder, Kit.FILE_NAME)
        java.io.RandomAccessFile(file, "rw").use { it.setLength(3L shl 30) }
        assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
        file.writeText("[" + "0,".repeat(400_000) + "0]")
        assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.read(folder) }
    }

    @Test
    fun notJudgedAndWithoutGoldenTensors() {
        val golden = Regex("""\{[^{}]*golden.safetensors[^{}]*}""")
        val text = golden.replace(changed("\"backend_sqnr_db_min\": 30.0", "\"backend_sqnr_db_min\": null"), "null")
        val kit = Kit.parse(text)
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
        val listed =
            changed("\"weights\": null", "\"weights\": \"vggt.ptd\"")
                .replace("\"weights_sha256\": null", "\"weights_sha256\": \"${kit.model.sha256}\"")
        File(folder, "vggt.ptd").writeText("weights")
        val error = assertRefused(KitException.Kind.DAMAGED_FILE) { Kit.parse(listed).checkModel(folder) }
        assertTrue(error.what.startsWith("vggt.ptd"))
    }

    @Test
    fun goldenTensors() {
        val kit = Kit.parse(Vectors.kit)
        val file = File(folder, "golden.safetensors")
        file.writeBytes(Vectors.golden)
        val golden = GoldenTensors.read(kit, folder)
        assertEquals(kit.input.shape.toList(), golden.images().shape)
        for (output in kit.outputs) {
            assertEquals(output.shape, golden.simulation(output.name).shape)
            assertEquals(output.shape, golden.fp32(output.name)?.shape)
        }
        assertRefused(KitException.Kind.DAMAGED_FILE) { golden.simulation("points") }
        assertNull(golden.fp32("points"))
        file.writeBytes(Vectors.golden.also { it[it.size - 1] = 0 })
        assertRefused(KitException.Kind.DAMAGED_FILE) { GoldenTensors.read(kit, folder) }
    }

    @Test
    fun goldenTensorsOfAnotherShape() {
        val file = SafetensorsFile(ByteBuffer.wrap(Vectors.golden))
        GoldenTensors.of(file, Kit.parse(Vectors.kit))
        val narrow = Regex("""(\[\s*1,\s*2,\s*14,\s*)28""").replace(changed("\"width\": 28", "\"width\": 14"), "$114")
        val error = assertRefused(KitException.Kind.DAMAGED_FILE) { GoldenTensors.of(file, Kit.parse(narrow)) }
        assertTrue(error.what, "input/images" in error.what)
    }

    @Test
    fun nanInAGoldenTensorNamesItsFile() {
        val data = Vectors.golden
        ByteBuffer.wrap(data).order(java.nio.ByteOrder.LITTLE_ENDIAN).let { it.putFloat(it.limit() - 4, Float.NaN) }
        val file = SafetensorsFile(ByteBuffer.wrap(data))
        val last = file.names.last { name -> file.tensor(name).values.any { it.isNaN() } }
        val golden = GoldenTensors.of(file, Kit.parse(Vectors.kit))
        val (group, name) = last.split('/')
        val error = assertRefused(KitException.Kind.DAMAGED_FILE) {
            if (group == "fp32") golden.fp32(name) else golden.simulation(name)
        }
        assertTrue(error.what, "golden.safetensors" in error.what && last in error.what)
    }

    @Test
    fun safetensors() {
        for (case in Vectors.cases("safetensors")) {
            val data = ByteBuffer.wrap(case.bytes("file"))
            if ("values" !in case.keys) {
                assertRefused(KitException.Kind.DAMAGED_FILE) { SafetensorsFile(data).tensor("t") }
                continue
            }
            val tensor = SafetensorsFile(data).tensor("t")
            assertEquals(case.wholes("shape"), tensor.shape)
            assertArrayEquals(case.text("name"), case.floats("values"), tensor.values, 0f)
        }
        val plain = SafetensorsFile(ByteBuffer.wrap(Vectors.cases("safetensors").first().bytes("file")))
        assertRefused(KitException.Kind.DAMAGED_FILE) { plain.tensor("u") }
    }

    /** What lies before the position of a buffer is not the file's. */
    @Test
    fun buffersCountFromTheirPosition() {
        val plain = Vectors.cases("safetensors").first().bytes("file")
        val buffer = ByteBuffer.wrap(ByteArray(5) + plain, 5, plain.size)
        assertEquals(listOf("t"), SafetensorsFile(buffer).names)
        assertEquals(6, SafetensorsFile(buffer).tensor("t").values.size)
    }

    @Test
    fun missingSafetensors() {
        assertRefused(KitException.Kind.DAMAGED_FILE) { SafetensorsFile.open(File(folder, "none")) }
        assertRefused(KitException.Kind.DAMAGED_FILE) { SafetensorsFile.open(File(folder, "a\u0000b")) }
    }
}
