package io.vggtedge

import java.io.File
import java.lang.reflect.Executable
import java.lang.reflect.Field
import java.lang.reflect.Member
import java.lang.reflect.Method
import java.lang.reflect.Modifier
import kotlin.reflect.KVisibility
import kotlin.reflect.jvm.kotlinFunction

/**
 * Prints what an app can call of the classes in a folder, in the format of Kotlin's binary-compatibility-validator:
 * `Api FOLDER`. What Kotlin calls internal is public to Java machines, and is left out.
 */
internal fun main(arguments: Array<String>) {
    val folder = File(arguments.single())
    val names = folder.walk().filter { it.extension == "class" }.map { it.relativeTo(folder).path.removeSuffix(".class") }
    for (name in names.sorted()) {
        val type = Class.forName(name.replace('/', '.'), false, Vectors::class.java.classLoader)
        val members = members(type)
        if (!isPublic(type) || type.isFacade && members.isEmpty()) continue
        println((listOf(header(type)) + members.map { "\t$it" } + "}").joinToString("\n", postfix = "\n"))
    }
}

private val Class<*>.isFacade get() = simpleName.endsWith("Kt")

private fun isPublic(type: Class<*>): Boolean {
    if (!Modifier.isPublic(type.modifiers) || type.isAnonymousClass || type.isLocalClass || type.isSynthetic) return false
    if (type.isFacade) return true
    return type.kotlin.visibility == KVisibility.PUBLIC && type.enclosingClass?.let(::isPublic) != false
}

private fun header(type: Class<*>): String {
    val above = listOfNotNull(type.superclass?.takeIf { it != Any::class.java }) + type.interfaces
    val supertypes = above.joinToString { path(it) }
    val kind = if (type.isInterface) "interface class" else "class"
    val words = words(type.modifiers and Modifier.STATIC.inv() and Modifier.INTERFACE.inv())
    return "$words $kind ${path(type)}${if (supertypes.isEmpty()) "" else " : $supertypes"} {"
}

private fun members(type: Class<*>): List<String> {
    val fields = type.declaredFields.filter(::isVisible).sortedBy { it.name }
    val constructors = type.declaredConstructors.filter(::isVisible).sortedBy(::signature)
    val methods = type.declaredMethods.filter(::isVisible).sortedWith(compareBy({ it.name }, ::signature))
    return fields.map { "${words(it)} field ${it.name} ${it.type.descriptorString()}" } +
        constructors.map { "${words(it)} fun <init> ${signature(it)}" } +
        methods.map { "${words(it)} fun ${it.name} ${signature(it)}" }
}

/** Internal functions and properties of classes have a dollar in their names. Copies with defaults have, too. */
private fun isVisible(member: Member): Boolean {
    if (!Modifier.isPublic(member.modifiers) && !Modifier.isProtected(member.modifiers)) return false
    if (member is Field) return !member.isSynthetic
    if (member is Method && member.isBridge) return false
    val executable = member as Executable
    if (executable.isSynthetic) return hasPublicOriginal(executable)
    val declared = if (executable is Method) executable.kotlinFunction else constructorOf(executable)
    return '$' !in executable.name && declared?.visibility != KVisibility.INTERNAL
}

private fun constructorOf(constructor: Executable) =
    (constructor as java.lang.reflect.Constructor<*>).kotlinFunction

/** A function with default values has a copy with two more parameters: which are given, and a marker. */
private fun hasPublicOriginal(copy: Executable): Boolean {
    val owner = copy.declaringClass
    val others = if (copy is Method) owner.declaredMethods.toList() else owner.declaredConstructors.toList()
    val name = copy.name.removeSuffix("\$default")
    return others.any { !it.isSynthetic && it.name == name && isVisible(it) }
}

private fun words(member: Member): String =
    words(member.modifiers and (Modifier.TRANSIENT or Modifier.VOLATILE).inv(), member.isSynthetic)

private fun words(modifiers: Int, isSynthetic: Boolean = false): String {
    val known = listOf(
        Modifier.PUBLIC to "public", Modifier.PROTECTED to "protected", Modifier.STATIC to "static",
        Modifier.FINAL to "final", Modifier.ABSTRACT to "abstract",
    )
    val found = known.filter { (bit, _) -> modifiers and bit != 0 }.map { it.second }
    return (found + listOfNotNull("synthetic".takeIf { isSynthetic })).joinToString(" ")
}

private fun signature(executable: Executable): String {
    val parameters = executable.parameterTypes.joinToString("") { it.descriptorString() }
    val result = if (executable is Method) executable.returnType.descriptorString() else "V"
    return "($parameters)$result"
}

private fun path(type: Class<*>) = type.name.replace('.', '/')
