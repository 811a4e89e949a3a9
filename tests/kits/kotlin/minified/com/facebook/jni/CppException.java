package com.facebook.jni;

import com.facebook.jni.annotations.DoNotStrip;

/** Made by native code alone. */
@DoNotStrip
public class CppException extends RuntimeException {
    @DoNotStrip
    public CppException(String message) {
        super(message);
    }
}
