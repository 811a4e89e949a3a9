package io.vggtedge

import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** The table of cases that all kits share. */
internal class JsonCasesTest {
    private fun cases(group: String): List<File> =
        File(System.getProperty("json.cases"), group).listFiles { file -> file.extension == "json" }.orEmpty().sorted()

    /** A value is read inside of a table. Where the case is a table itself, keys are counted apart. */
    private fun read(text: ByteArray): KitException? =
        try {
            JsonReader(strictText(text)).value()
            null
        } catch (problem: JsonProblem) {
            Kit.damaged(problem.message.orEmpty())
        }

    @Test
    fun goodOnesAreRead() {
        assertTrue(cases("accepted").size > 20)
        for (case in cases("accepted")) assertNull(case.name, read(case.readBytes()))
    }

    @Test
    fun badOnesAreRefusedInFewWords() {
        assertTrue(cases("refused").size > 60)
        for (case in cases("refused")) {
            val error = read(case.readBytes())
            assertNotNull(case.name, error)
            assertTrue(case.name, error!!.what.length < 200)
        }
    }

    @Test
    fun whatIsWrittenIsRead() {
        val value = linkedMapOf("a" to listOf(1, 2.5, null, true), "b\"\\\n\u0001" to "é😀", "c" to emptyList<Int>())
        val read = JsonReader(jsonText(value)).value() as JsonTable
        assertEquals(value.keys, read.keys)
        assertEquals(listOf(1L, 2.5, null, true), read.list("a"))
        assertEquals("é😀", read.text("b\"\\\n\u0001"))
    }
}
